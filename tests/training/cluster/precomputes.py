"""A cache begun by two processes that are killed, gone on with by three, one of them killed, ended by one; JSON.

    python precomputes.py FOLDER TINY_MODEL    (run by test_precomputes.py)
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from forks import run, settle
from photos import save_photos

from e2ed2.models.folders.pipeline import load_pipeline
from e2ed2.recipe.load import build_config
from e2ed2.training.latents import precompute as module


def encoding(model, photos, out, most=8):
    """Work of which each process writes `most` shards and waits then."""
    data = {"source": "folder", "path": photos}
    config = build_config({"stage": "e2ed2", "run": {"dir": "unused"}, "model": {"path": model}, "data": data})

    def work(rank):
        module.SHARD_SIZE = 1
        module.write_shard = at_most(most)
        module.precompute(config, out, print)

    return work


def at_most(most, write=module.write_shard):
    numbers = iter(range(most))

    def written(*args):
        while next(numbers, None) is None:
            time.sleep(1)
        write(*args)

    return written


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shards(out):
    return len(list((out / "shards").glob("*.safetensors")))


def main(folder, model):
    load_pipeline(Path(model))
    settle()
    photos, said, out = save_photos(folder / "photos"), folder / "said.txt", folder / "killed"
    whole = run(1, encoding(model, photos, folder / "whole"), said)
    found = {"whole": whole, "number": shards(folder / "whole"), "done": []}
    for world, count in ((2, 2), (3, 5)):

        def both_die(pids, count=count):
            while shards(out) < count:
                time.sleep(0.01)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)

        found[f"{world}"] = run(world, encoding(model, photos, out, 1), said, meanwhile=both_die)
        found["done"].append(shards(out))
    found["1"] = run(1, encoding(model, photos, out), said)
    found |= {"same": contents(out) == contents(folder / "whole"), "said": said.read_text()[-4000:]}
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
