"""A run cut short and resumed equals one that was not: losses to the last digit, weights bit for bit."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from e2ed2.training import loop
from e2ed2.training.log import read_metrics
from e2ed2.training.loop import train

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).parent / "kill_runs.py"


def quiet(line):
    pass


def at(config, run_dir):
    return config.model_copy(update={"run": config.run.model_copy(update={"dir": run_dir})})


def outcome(config, without_time):
    """(metrics without the clock, name -> bytes of the last checkpoint and the model)."""
    run_dir = config.run.dir
    newest = run_dir / "checkpoints" / f"step-{config.train.max_train_steps}"
    kept = [path for folder in (newest, run_dir / "model") for path in folder.rglob("*") if path.is_file()]
    rows = without_time(read_metrics(run_dir / "metrics.jsonl"))
    return rows, {path.relative_to(run_dir): path.read_bytes() for path in kept}


def interrupt_at(steps, *numbers):
    def tick(step, num_steps, row):
        if step in steps:
            for number in numbers or [signal.SIGINT]:
                signal.raise_signal(number)  # to this very thread, at once

    return tick


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_ctrl_c_saves_and_the_resumed_run_is_the_same(tiny, tmp_path, without_time, precision):
    config = tiny(mixed_precision=precision, lr_schedule="cosine", lr_warmup_steps=3)
    reference = at(config, tmp_path / "reference")
    train(reference, quiet)
    for step in (1, 5, 8, 12):  # the first, one that is saved anyway, one between, the last
        said = []
        with pytest.raises(KeyboardInterrupt, match=f"step {step} is saved; run the same command to go on"):
            train(config, said.append, interrupt_at({step}))
        assert (config.run.dir / "checkpoints" / f"step-{step}").is_dir()
        assert (f"interrupted: saving step {step}; once more Ctrl-C stops at once" in said) == (step in (1, 8))
        assert len(read_metrics(config.run.dir / "metrics.jsonl")) == step
    train(config, quiet)
    assert outcome(config, without_time) == outcome(reference, without_time)


def test_a_second_ctrl_c_stops_at_once_and_leaves_the_last_checkpoint(tiny, tmp_path, without_time, monkeypatch):
    monkeypatch.setattr("e2ed2.training.interrupt.TOGETHER", 0.0)
    config = tiny()
    reference = at(config, tmp_path / "reference")
    train(reference, quiet)
    with pytest.raises(KeyboardInterrupt):
        train(config, quiet, interrupt_at({8}, signal.SIGTERM, signal.SIGINT))
    assert [path.name for path in (config.run.dir / "checkpoints").iterdir()] == ["step-5"]
    train(config, quiet)
    assert outcome(config, without_time) == outcome(reference, without_time)


@pytest.mark.parametrize("numbers", ["TERM TERM TERM", "HUP", "INT INT", "TERM INT", "HUP TERM INT"])
def test_notices_however_often_and_what_comes_with_them_are_a_first_ctrl_c(tiny, tmp_path, without_time, numbers):
    config, before = tiny(), signal.getsignal(signal.SIGTERM)
    reference = at(config, tmp_path / "reference")
    train(reference, quiet)
    with pytest.raises(KeyboardInterrupt, match="step 8 is saved; run the same command to go on"):
        train(config, quiet, interrupt_at({8}, *[signal.Signals[f"SIG{name}"] for name in numbers.split()]))
    assert signal.getsignal(signal.SIGTERM) is before
    train(config, quiet)
    assert outcome(config, without_time) == outcome(reference, without_time)


def test_sigterm_before_the_first_update_ends_as_ctrl_c_does(tiny, monkeypatch):
    monkeypatch.setattr(loop, "load_training_set", lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), quiet)


TRAIN = """
import sys, time
from conftest import NUM_ITEMS, TinyStage
from e2ed2 import cli
from e2ed2.training import loop

class Slow(TinyStage):
    def loss_terms(self, *args):
        time.sleep(0.05)
        return super().loss_terms(*args)

loop.create_stage, loop.load_training_set = Slow, lambda *_: range(NUM_ITEMS)
sys.argv = ["e2ed2", "train", sys.argv[1]]
cli.main()
"""


@pytest.mark.slow
def test_kill_of_a_training_saves_says_so_and_goes_on(tiny, tmp_path, without_time):
    config = tiny(max_train_steps=30)
    reference = at(config, tmp_path / "reference")
    train(reference, quiet)
    (tmp_path / "recipe.yaml").write_text(config.to_yaml())
    command = [sys.executable, "-c", TRAIN, tmp_path / "recipe.yaml"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{DRIVER.parent}"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and len(read_metrics(config.run.dir / "metrics.jsonl")) < 3:
            time.sleep(0.02)
        process.terminate()  # kill -TERM
        said = process.communicate(timeout=100)[1]
    step = len(read_metrics(config.run.dir / "metrics.jsonl"))
    assert process.returncode == 130 and 3 <= step < 30, said
    assert said.endswith(f"interrupted: step {step} is saved; run the same command to go on\n"), said
    train(config, quiet)
    assert outcome(config, without_time) == outcome(reference, without_time)


def test_ctrl_c_during_a_save_waits_for_it_and_during_the_model_leaves_no_half(tiny, tiny_stage, monkeypatch):
    config, save = tiny(), loop.save_checkpoint

    def interrupted_save(*args):
        signal.raise_signal(signal.SIGINT)  # to this very thread, at once
        return save(*args)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt, match="step 5 is saved"):
        patched.setattr(loop, "save_checkpoint", interrupted_save)
        train(config, quiet)
    assert [path.name for path in (config.run.dir / "checkpoints").iterdir()] == ["step-5"]

    def interrupted_export(self, network, folder):
        (folder / "half").touch()
        signal.raise_signal(signal.SIGINT)  # to this very thread, at once

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(tiny_stage, "export", interrupted_export)
        train(config, quiet)
    assert not list(config.run.dir.glob("model*"))
    assert (train(config, quiet) / "part").is_dir()


def test_a_run_made_longer_is_the_long_run(tiny, tmp_path, without_time):
    reference = at(tiny(), tmp_path / "reference")
    train(reference, quiet)
    train(tiny(max_train_steps=7), quiet)
    train(tiny(), quiet)
    assert outcome(tiny(), without_time) == outcome(reference, without_time)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """What kill_runs.py reports."""
    command = [sys.executable, DRIVER, tmp_path_factory.mktemp("killed")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_kill_9_at_any_moment_changes_nothing(killed):
    assert (killed["rows"], killed["files"]) == (12, 6)  # model, EMA, optimizer, state; the exported weights and note
    for moment, found in killed["outcome"].items():
        assert found["kills"] >= 1 and found["finished"] and found["same"], (moment, found)
