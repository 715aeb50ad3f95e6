"""`e2ed2 train RECIPE` of the tiny stage; what is named after the recipe changes what this process does.

    python tiny_rank.py RECIPE [TASK]    (run by the tests beside)
"""

import sys
import time


from e2ed2 import cli
from e2ed2.training import loop
from e2ed2.training.cluster import agreement
from conftest import NUM_ITEMS, TinyStage


class Slow(TinyStage):
    def loss_terms(self, *args):
        time.sleep(0.05)
        return super().loss_terms(*args)


class Full(TinyStage):
    def loss_terms(self, *args):
        raise MemoryError("Unable to allocate 8.00 GiB for an array")


STAGES = {"slow": Slow, "full": Full}


def main(recipe: str, task: str = "") -> None:
    loop.create_stage = STAGES.get(task, TinyStage)
    loop.load_training_set = lambda *_: range(NUM_ITEMS + (task == "other data"))
    if task == "other code":
        agreement.torch.__version__ = "2.0"
    if task == "no data":
        loop.load_training_set = lambda *_: no_data()
    sys.argv = ["e2ed2", "train", recipe]
    cli.main()


def no_data():
    from e2ed2.system.errors import UserError

    raise UserError("data.path: nothing there")


if __name__ == "__main__":
    main(*sys.argv[1:])
