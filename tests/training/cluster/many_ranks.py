"""Trains the tiny stage on several numbers of processes, in turn, some killed; a JSON object on stdout.

    python many_ranks.py FOLDER KILLS HOW ...    (run by test_many_ranks.py)

Everything is compared with one process that has the joint batch, and kills with two that nobody disturbed.
"""

import json
import random
import sys
import time
from functools import partial
from pathlib import Path

from conftest import NUM_ITEMS, TinyStage, timeless, tiny_config
from forks import HOW, run, settle

import e2ed2.commands.train  # noqa: F401 - imported once, for all children
from e2ed2.system.processes import process_state
from e2ed2.training import loop
from e2ed2.training.log import read_metrics

NUM_MICRO = 6  # micro-batches of an update, shared out


class Noting(TinyStage):
    """Writes down which items it is shown."""

    def loss_terms(self, network, ema, rows, generator):
        with self.file.open("a") as file:
            file.write(json.dumps(rows.tolist()) + "\n")
        return super().loss_terms(network, ema, rows, generator)


def training(run_dir, world, steps=12):
    """One process's part of a training that `world` of them began."""
    micro = {"micro_batch_size": 2, "gradient_accumulation_steps": NUM_MICRO // world}
    config = tiny_config(run_dir, max_train_steps=steps, keep_checkpoints=3, **micro)

    def work(rank):
        process_state(loop.PATIENCE)
        run_dir.with_name(f"met-{rank}").touch()
        Noting.file = run_dir.with_name(f"{run_dir.name}-{steps}-{rank}.jsonl")
        loop.create_stage = Noting
        loop.load_training_set = lambda config, say, progress: range(NUM_ITEMS)
        loop.train(config, partial(print, flush=True))  # a killed process leaves nothing in a buffer

    return work


def items(run_dir, steps, ranks):
    """The items of each update, sorted, of all processes of a part of a run."""
    files = (run_dir.with_name(f"{run_dir.name}-{steps}-{rank}.jsonl") for rank in range(ranks))
    each = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    share = NUM_MICRO // ranks
    updates = [[row for rows in each for row in rows[i : i + share]] for i in range(0, len(each[0]), share)]
    return [sorted(sum(update, [])) for update in updates]


def in_turn(folder, how):
    """Two, one and three processes go on with each other's run."""
    run_dir, said = folder / f"turn-{how}".replace(" ", "-"), folder / "said.txt"
    statuses = [
        run(world, training(run_dir, 2, steps), said, HOW[how]) for world, steps in ((2, 4), (1, 8), (3, 12))
    ]
    shown = [items(run_dir, steps, world) for world, steps in ((2, 4), (1, 8), (3, 12))]
    rows = timeless(read_metrics(run_dir / "metrics.jsonl"))
    return {"statuses": statuses, "items": sum(shown, []), "rows": rows}


def killed(folder, how, kills):
    """Two processes, of which one is killed at random moments until it was `kills` times; then they end.

    A moment is any from the update that the run has come to on, or shortly after it, once they have met: before, the
    other rightly waits for it.
    """

    def come(to):
        def wait(pids):
            while len(list(folder.glob("met-?"))) < 2 or num_rows() < to:
                time.sleep(0.002)

        return wait

    def num_rows():
        file = run_dir / "metrics.jsonl"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    said, rng, ends = folder / "said.txt", random.Random(how), []
    undisturbed, run_dir = folder / f"undisturbed-{how}".replace(" ", "-"), folder / f"killed-{how}".replace(" ", "-")
    run(2, training(undisturbed, 2, 60), said, HOW[how])
    while len(ends) < kills:
        for file in folder.glob("met-?"):
            file.unlink()
        kill, moment = (rng.randrange(2), rng.uniform(0, 0.05)), rng.randrange(min(num_rows(), 59), 60)
        statuses = run(2, training(run_dir, 2, 60), said, HOW[how], kill=kill, meanwhile=come(moment))
        if -9 not in statuses:  # it was done before: once more from the beginning
            run_dir = run_dir.with_name(run_dir.name + "-again")
        else:
            ends.append(statuses)
    last = run(2, training(run_dir, 2, 60), said, HOW[how])
    rows = [timeless(read_metrics(each / "metrics.jsonl")) for each in (undisturbed, run_dir)]
    num_resumed = said.read_text().count(f"resuming {folder / 'killed'}-{how}")
    found = {"ends": ends, "last": last, "num_resumed": num_resumed}
    return found | {"num_rows": len(rows[0]), "same": rows[0] == rows[1]}


def main(folder, kills, ways):
    settle()
    one = folder / "one"
    outcome = {"one": run(1, training(one, 1), folder / "said.txt")}
    outcome |= {"rows": timeless(read_metrics(one / "metrics.jsonl")), "items": items(one, 12, 1)}
    for how in ways:
        outcome[how] = {"in turn": in_turn(folder, how)} | ({"killed": killed(folder, how, kills)} if kills else {})
    outcome["said"] = (folder / "said.txt").read_text()[-6000:]
    print(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
