"""Ends two processes of `e2ed2 train` in every way that is not the end of the training; a JSON object on stdout.

    python ends.py FOLDER [WAY ...]    (run by test_ends.py)

Of each way: the exit status of every process, what each has said on stderr, and how many seconds it took.
"""

import json
import os
import shutil
import signal
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path

from conftest import NUM_ITEMS, TinyStage, tiny_config
from forks import HOW, run, settle
from ranks import free_port

import e2ed2.commands.train
import e2ed2.reports.run_page  # noqa: F401 - imported once, for all children
from e2ed2 import cli
from e2ed2.system import together
from e2ed2.system.errors import UserError
from e2ed2.training import loop
from e2ed2.training.cluster import agreement
from e2ed2.training.log import read_metrics

WAYS = {}
SHARDS = HOW["shards"]


class Slow(TinyStage):
    def loss_terms(self, *args):
        time.sleep(0.05)
        return super().loss_terms(*args)


class Full(TinyStage):
    def loss_terms(self, *args):
        raise MemoryError("Unable to allocate 8.00 GiB for an array")


def way(function):
    WAYS[function.__name__.replace("_", " ")] = function
    return function


def recipe(folder, name="run", **train):
    """The file of a recipe in `folder`, for two processes of three micro-batches each."""
    defaults = {"micro_batch_size": 2, "gradient_accumulation_steps": 3, "checkpoint_every": 4}
    path = folder / f"{name}.yaml"
    path.write_text(tiny_config(folder / "run", **{**defaults, **train}).to_yaml())
    return path


def training(recipes, stages=(TinyStage, TinyStage), before=lambda rank: None):
    """`e2ed2 train` of each process's recipe and stage."""

    def work(rank):
        loop.create_stage = stages[min(rank, len(stages) - 1)]
        loop.load_training_set = lambda *_: range(NUM_ITEMS)
        before(rank)
        sys.argv = ["e2ed2", "train", str(recipes[min(rank, len(recipes) - 1)])]
        cli.main()

    return work


def ended(folder, work, world=2, **options):
    began = time.monotonic()
    statuses = run(world, work, folder / "said-RANK.txt", **options)
    said = [(folder / f"said-{rank}.txt").read_text() for rank in range(world)]
    for rank in range(world):
        (folder / f"said-{rank}.txt").unlink()
    return {"statuses": statuses, "said": said, "seconds": time.monotonic() - began}


def in_rank_1(change):
    return lambda rank: change() if rank == 1 else None


@way
def another_recipe(folder):
    return ended(folder, training([recipe(folder), recipe(folder, "other", lr=0.5)]))


@way
def another_code(folder):
    change = in_rank_1(lambda: setattr(agreement.e2ed2, "__version__", "0"))
    return ended(folder, training([recipe(folder)], before=change))


@way
def other_data(folder):
    def change():
        loop.load_training_set = lambda *_: range(NUM_ITEMS + 1)

    return ended(folder, training([recipe(folder)], before=in_rank_1(change)))


@way
def no_data_on_one(folder):
    def refuse(*_):
        raise UserError("data.path: nothing there")

    def change():
        loop.load_training_set = refuse

    return ended(folder, training([recipe(folder)], before=in_rank_1(change)))


@way
def no_recipe_on_one(folder):
    return ended(folder, training([recipe(folder), folder / "gone.yaml"]))


@way
def a_full_memory(folder):
    return ended(folder, training([recipe(folder)], (TinyStage, Full)))


@way
def a_port_in_use(folder):
    together.JOIN = timedelta(seconds=5)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        return ended(folder, training([recipe(folder)]), port=taken.getsockname()[1])


@way
def one_that_never_comes(folder):
    together.JOIN = timedelta(seconds=5)
    stay_away = in_rank_1(lambda: os._exit(0))
    return ended(folder, training([recipe(folder)], before=stay_away), port=free_port())


def without_a_shard(folder, step):
    """Goes on after a run to this step, of whose checkpoint a part is gone."""
    first = ended(folder, training([recipe(folder, max_train_steps=step)]), env=SHARDS)
    assert first["statuses"] == [0, 0], first
    shutil.rmtree(folder / "run" / "model")
    next((folder / "run" / "checkpoints" / f"step-{step}").glob("shard-00002*")).unlink()
    return ended(folder, training([recipe(folder)]), env=SHARDS)


@way
def a_shard_missing(folder):
    return without_a_shard(folder, 4)


@way
def a_shard_missing_of_the_newest(folder):
    return without_a_shard(folder, 8)


@way
def a_number_that_cannot_share(folder):
    first = ended(folder, training([recipe(folder, max_train_steps=4, gradient_accumulation_steps=1)]))
    assert first["statuses"] == [0, 0], first
    return ended(folder, training([recipe(folder, gradient_accumulation_steps=1)]), world=3)


@way
def deepspeed(folder):
    return ended(folder, training([recipe(folder)]), env={"ACCELERATE_USE_DEEPSPEED": "true"})


@way
def fsdp_1(folder):
    return ended(folder, training([recipe(folder)]), env={"ACCELERATE_USE_FSDP": "true"})


def terminated(folder, rank, env):
    """SIGTERM to one of them between two checkpoints; then once more, to the end."""
    path = recipe(folder, max_train_steps=2000, checkpoint_every=1000)

    def terminate(pids):
        while len(read_metrics(folder / "run" / "metrics.jsonl")) < 3:
            time.sleep(0.01)
        os.kill(pids[rank], signal.SIGTERM)

    end = ended(folder, training([path], (Slow,)), env=env, meanwhile=terminate)
    end["steps"] = len(read_metrics(folder / "run" / "metrics.jsonl"))
    end["saved"] = [each.name for each in (folder / "run" / "checkpoints").iterdir()]
    return end


for rank in (0, 1):
    for how in ("DDP", "shards"):
        WAYS[f"SIGTERM to {rank}, {how}"] = lambda folder, rank=rank, how=how: terminated(folder, rank, HOW[how])


@way
def one_that_is_killed(folder):
    path = recipe(folder, max_train_steps=2000)

    def kill(pids):
        while len(read_metrics(folder / "run" / "metrics.jsonl")) < 6:
            time.sleep(0.01)
        os.kill(pids[1], signal.SIGKILL)

    return ended(folder, training([path], (Slow,)), meanwhile=kill)


@way
def the_first_that_is_killed(folder):
    path = recipe(folder, max_train_steps=2000)

    def kill(pids):
        while len(read_metrics(folder / "run" / "metrics.jsonl")) < 6:
            time.sleep(0.01)
        os.kill(pids[0], signal.SIGKILL)

    return ended(folder, training([path], (Slow,)), meanwhile=kill)


def main(folder, names):
    settle()
    outcome = {}
    for number, name in enumerate(names or WAYS):
        join = together.JOIN
        (folder / str(number)).mkdir()
        outcome[name] = WAYS[name](folder / str(number))
        together.JOIN = join
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
