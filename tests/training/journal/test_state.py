"""What a run says of itself, and what is true of it."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from e2ed2.system.errors import UserError
from e2ed2.system.files import is_locked, locked
from e2ed2.training.journal.state import RunState, is_at_work, read_state, write_state
from e2ed2.training.loop import train
from e2ed2.training.run_folder import claimed


def state(doing="training", **fields):
    return RunState(doing=doing, pid=os.getpid(), host=socket.gethostname(), began=1.0, now=2.0, **fields)


def test_a_run_says_what_it_does_and_how_it_ended(tiny):
    config, seen = tiny(), []

    def show(run_dir):
        found = read_state(run_dir)
        seen.append((found.doing, found.step, is_at_work(run_dir, found)))

    train(config, lambda line: None, show=show)
    assert seen == [
        ("preparing", 0, True), ("training", 0, True), ("training", 6, True), ("training", 12, True),
        ("finished", 12, False),
    ]  # fmt: skip
    found = read_state(config.run.dir)
    assert (found.max_steps, found.stage, found.model, found.data) == (12, "base", "unused", "emoji")
    assert found.command == [], "nobody typed it"
    train(config, lambda line: None, show=lambda run_dir: pytest.fail("a finished run is left as it is"))


def test_an_interrupted_run_says_so_and_a_refused_one_leaves_what_was_said(tiny):
    config = tiny()

    def stop(step, steps, row):
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(config, lambda line: None, stop)
    found = read_state(config.run.dir)
    assert (found.doing, found.step) == ("interrupted", 7) and "step 7 is saved" in found.why
    with pytest.raises(UserError):
        train(tiny(seed=5), lambda line: None)
    assert read_state(config.run.dir) == found


def test_what_ends_a_run_is_its_reason(tiny, monkeypatch):
    def fail(*args):
        raise UserError("data.path 'x': nothing there; give a folder")

    monkeypatch.setattr("e2ed2.training.loop.load_training_set", fail)
    config, said = tiny(), []
    with pytest.raises(UserError):
        train(config, said.append, show=lambda run_dir: 1 / 0)
    found = read_state(config.run.dir)
    assert (found.doing, found.why) == ("failed", "data.path 'x': nothing there; give a folder")
    assert any("the page of the run was not written" in line for line in said), "and a page that fails ends nothing"


def test_a_kill_leaves_nobody_at_work(tmp_path):
    """The lock of a killed process goes with it; what it said last stays."""
    code = f"import fcntl, os, time; fcntl.flock(os.open({str(tmp_path)!r}, os.O_RDONLY), fcntl.LOCK_EX)\n"
    code += "print('in', flush=True); time.sleep(60)"  # as `claimed` does
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "in\n"
    write_state(tmp_path, state())
    assert is_at_work(tmp_path, read_state(tmp_path)) and is_locked(tmp_path) is True
    child.kill()
    child.wait()
    assert not is_at_work(tmp_path, read_state(tmp_path)) and is_locked(tmp_path) is False


def test_who_only_looks_keeps_nobody_out(tmp_path):
    import fcntl
    import threading

    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # as `is_locked` does, for a moment
    threading.Timer(0.05, os.close, [descriptor]).start()
    with claimed(tmp_path, True):
        assert is_locked(tmp_path)
    with locked(tmp_path), pytest.raises(UserError, match="another training"), claimed(tmp_path, True):
        pass


def test_without_a_lock_the_process_tells(tmp_path):
    write_state(tmp_path, state("starting"))
    assert is_at_work(tmp_path, state("starting")), "not locked yet, but its process is there"
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert not is_at_work(tmp_path, state("starting").model_copy(update={"pid": gone.pid}))
    assert not is_at_work(tmp_path, state()), "a folder that nobody has locked"
    assert not is_at_work(tmp_path / "none", state().model_copy(update={"pid": gone.pid})), (
        "where nothing can be locked"
    )


@pytest.mark.parametrize("text", ["", "{", "[]", '{"doing": "dancing"}', '{"doing": "training"}', "\0"])
def test_a_damaged_state_is_none(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    assert read_state(tmp_path) is None


def test_time_left_is_measured_from_where_this_process_began(tiny):
    config, found = tiny(preview_every=5), []

    def slow(step, steps, row):
        time.sleep(0.02)

    train(config, lambda line: None, slow, show=lambda run_dir: found.append(read_state(run_dir)))
    left = [s.seconds_left for s in found if s.doing == "training" and s.step in (5, 10)]
    assert len(left) == 2 and 7 * 0.02 < left[0] < 3 and left[1] < left[0]
