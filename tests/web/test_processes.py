"""Trainings that a page starts: what is run, what is never run, and what is said of those that end early."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from e2ed2.reports.run_state import told
from e2ed2.system.errors import UserError
from e2ed2.system.files import locked
from e2ed2.web.processes import Processes, resumed
from e2ed2.web.runs import Runs
from tests.web.conftest import write_run

SLEEP = "import sys, time; print(sys.argv[1:]); time.sleep(60)"


@pytest.fixture
def spawned(monkeypatch):
    """What would be run; in its place a process that sleeps, or one that ends at once with a line."""
    commands, code = [], [SLEEP]
    plain = subprocess.Popen

    def stand_in(command, **options):
        commands.append(command)
        assert options["start_new_session"] and options["stdin"] == subprocess.DEVNULL
        return plain([sys.executable, "-c", code[0], "e2ed2", *command[3:]], **options)

    monkeypatch.setattr("e2ed2.web.processes.subprocess.Popen", stand_in)
    return commands, code


def wait_until(what):
    until = time.monotonic() + 20
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_start_is_a_process_of_its_own_and_a_run_at_once(client, runs, spawned):
    fields = {"model": "--help", "data": "-x", "name": "new", "prompt": "--a dog; rm", "updates": "7", "steps": "2"}
    response = client.post("/start/go", data=fields | {"overrides": "train.lr=1e-5\n\n"}, follow_redirects=False)
    assert response.status_code == 303 and response.headers["location"] == "/run/new"
    assert spawned[0] == [[
        sys.executable, "-m", "e2ed2.cli", "finetune", "--out", str(runs / "new"), "--steps", "2",
        "--prompt=--a dog; rm", "--", "--help", "-x", "train.max_train_steps=7", "train.lr=1e-5",
    ]]  # fmt: skip
    text = client.get("/run/new").text
    assert ">starting<" in text and ">Save and stop<" in text
    found = told(runs / "new")
    assert found.is_live and os.getsid(found.pid) == found.pid, "it outlives the page and its server"
    assert client.post("/start/go", data=fields).status_code == 422, "the name is taken"
    client.post("/stop", data={"run": "new"})
    wait_until(lambda: ">failed<" in client.get("/state/new").text)
    assert "e2ed2 finetune --out" in client.get("/state/new").text, "what it printed is there to read"


def test_what_ends_before_it_begins_says_why(client, runs, spawned):
    spawned[1][0] = "import sys; print('error: model: no such folder <b>'); sys.exit(2)"
    client.post("/start/go", data={"model": "m", "data": "d", "name": "new"})
    wait_until(lambda: ">failed<" in client.get("/state/new").text)
    assert "error: model: no such folder &lt;b&gt;" in client.get("/").text


def test_going_on_runs_what_its_recipe_says_and_never_what_a_file_tells(client, runs, spawned):
    run = write_run(runs / "stopped", "interrupted", command=["e2ed2", "curate", "rm", "-rf"])
    client.post("/go-on", data={"run": "stopped"})
    assert spawned[0][-1][3:] == ["train", "--", str(run / "config.yaml"), f"run.dir={run}"]
    assert ">starting<" in client.get("/state/stopped").text and told(run).step == 40
    assert client.post("/go-on", data={"run": "stopped"}).status_code == 422, "it is at work"
    os.kill(told(run).pid, signal.SIGKILL)
    assert client.post("/go-on", data={"run": "one"}).status_code == 422, "finished"
    recipe = {"model": {"path": "m"}, "data": {"path": "--d"}}
    assert resumed("finetune", run, recipe) == ["finetune", "--out", str(run), "--", "m", "--d"]
    assert resumed("finetune", run, {})[0] == "train"


def test_only_our_own_processes_are_stopped(runs):
    """A number that a file tells may be anybody's."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        run = write_run(runs / "crafted", "training", pid=other.pid)
        processes = Processes(Runs(runs))
        with locked(run):
            assert told(run).is_live and not processes.can_stop(told(run))
            with pytest.raises(UserError, match="no process of this machine"):
                processes.stop("crafted", told(run))
            for changed in ({"pid": 1}, {"pid": 0}, {"pid": -1}, {"host": "elsewhere"}):
                state = json.loads((run / "state.json").read_text())
                (run / "state.json").write_text(json.dumps(state | changed))
                assert not processes.can_stop(told(run)), changed
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
