"""`e2ed2 train RECIPE` of the tiny stage under `torchrun`, whose second process dies at its seventh update, once.

    torchrun --nproc-per-node 2 --max-restarts 1 elastic_rank.py RECIPE    (run by test_elastic.py)
"""

import os
import signal
import sys

from conftest import NUM_ITEMS, TinyStage

from e2ed2 import cli
from e2ed2.training import loop


def update(stage, trained, config, order, step, accelerator):
    is_last = step == 6 and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if is_last and accelerator.process_index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(stage, trained, config, order, step, accelerator)


if __name__ == "__main__":
    plain, loop.update = loop.update, update
    loop.create_stage, loop.load_training_set = TinyStage, lambda *_: range(NUM_ITEMS)
    sys.argv = ["e2ed2", "train", sys.argv[1]]
    cli.main()
