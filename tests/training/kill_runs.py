"""Trains the tiny stage in child processes that die by SIGKILL, and reports whether a resumed run noticed.

    python kill_runs.py FOLDER    (run by test_resume.py; prints one JSON object)

Each run is compared with one that nobody disturbed: the metrics but for the clock, and every byte of the last
checkpoint and of the model. Children are forked, so that the libraries are imported once.
"""

import gc
import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch._dynamo  # noqa: F401 - else every child imports it at its first optimizer step
from conftest import NUM_ITEMS, TinyStage, timeless, tiny_config

from e2ed2.system import files
from e2ed2.training import checkpoint, log, loop
from e2ed2.training.journal import journal
from e2ed2.training.log import read_metrics

NUM_RANDOM_KILLS = 8


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def call_number(number: int, function: Callable, instead: Callable) -> Callable:
    """`function`, but `instead` at its call of that number."""
    calls = []

    def wrapped(*args, **kwargs):
        calls.append(None)
        return (instead if len(calls) == number else function)(*args, **kwargs)

    return wrapped


def half_of_the_weights(tensors, path):
    save_file(tensors, path)
    os.truncate(path, path.stat().st_size // 2)
    die()


def half_of_a_row(self, row):
    with self._path.open("ab") as file:
        file.write(log._line(row)[:20])
    die()


def half_of_step_5(folder, *args):
    (folder / "step-5" / "state.json").unlink()
    die()


def half_of_the_model(self, network, folder):
    (folder / "part").mkdir()
    die()


def no_more(*args, **kwargs):
    die()


# moment -> (where, what, the call that is the last)
save_file = checkpoint.save_file
MOMENTS = {
    "first update": (loop, "update", 1, no_more),
    "between checkpoints": (loop, "update", 7, no_more),
    "half of a row": (log.MetricsFile, "write", 8, half_of_a_row),
    "first checkpoint half written": (checkpoint, "save_file", 1, half_of_the_weights),
    "second checkpoint half written": (checkpoint, "save_file", 4, half_of_the_weights),
    "weights without state": (checkpoint, "file_sha256", 5, no_more),
    "checkpoint not renamed": (files, "_sync", 12, no_more),
    "checkpoint saved, old ones not removed": (loop, "prune_checkpoints", 2, no_more),
    "old checkpoint half removed": (loop, "prune_checkpoints", 3, half_of_step_5),
    "preview": (journal, "write_preview", 2, no_more),
    "before the model": (loop, "_export", 1, no_more),
    "half of the model": (TinyStage, "export", 1, half_of_the_model),
}


def kill_at(moment: str) -> Callable[[], None]:
    where, name, number, instead = MOMENTS[moment]
    return lambda: setattr(where, name, call_number(number, getattr(where, name), instead))


def save_slowly() -> None:
    """Weights in pieces with pauses, so that a random moment often lies within a save."""

    def slow(tensors, path):
        save_file(tensors, path)
        data = path.read_bytes()
        with path.open("wb") as file:
            for start in range(0, len(data), len(data) // 4):
                file.write(data[start : start + len(data) // 4])
                file.flush()
                time.sleep(0.03)

    checkpoint.save_file = slow


def run_child(run_dir: Path, prepare: Callable[[], None], seconds: float | None = None) -> bool:
    """Train in a child, killed after `seconds` unless done before; True when it ended by itself."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            loop.create_stage = TinyStage
            loop.load_training_set = lambda config, say, progress: range(NUM_ITEMS)
            prepare()
            loop.train(tiny_config(run_dir, keep_checkpoints=2, lr_schedule="cosine"), lambda line: None)
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    deadline = None if seconds is None else time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, 0 if deadline is None else os.WNOHANG)
        if done:
            break
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            deadline = None
        else:
            time.sleep(0.001)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError(f"a training in {run_dir} failed; see above")
    return os.WIFEXITED(status)


def result(run_dir: Path) -> dict[str, object]:
    """All that must not depend on kills."""
    kept = [path for part in ("checkpoints/step-12", "model") for path in (run_dir / part).rglob("*") if path.is_file()]
    digests = {str(path.relative_to(run_dir)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}
    return {"metrics": timeless(read_metrics(run_dir / "metrics.jsonl")), "digests": digests}


def main(folder: Path) -> None:
    gc.collect()
    gc.freeze()  # what is loaded stays; every child would go through all of it, several times
    run_child(folder / "undisturbed", lambda: None)
    expected = result(folder / "undisturbed")
    outcome: dict[str, dict[str, object]] = {}
    for moment in MOMENTS:
        run_dir = folder / moment.replace(" ", "-")
        killed = not run_child(run_dir, kill_at(moment))
        finished = run_child(run_dir, lambda: None)
        outcome[moment] = {"kills": int(killed), "finished": finished, "same": result(run_dir) == expected}
    rng, kills = random.Random(0), 0
    while kills < NUM_RANDOM_KILLS and not run_child(folder / "random", save_slowly, rng.uniform(0.05, 0.8)):
        kills += 1
    finished = run_child(folder / "random", lambda: None)
    outcome["random moments"] = {"kills": kills, "finished": finished, "same": result(folder / "random") == expected}
    print(json.dumps({"rows": len(expected["metrics"]), "files": len(expected["digests"]), "outcome": outcome}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
