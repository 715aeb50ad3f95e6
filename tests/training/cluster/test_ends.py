"""What ends one of several processes ends all, soon, with one status, and one of them says why on one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.cluster.ranks import ALONE

DRIVER = Path(__file__).parent / "ends.py"
BAD = {  # way -> what is said
    "another recipe": "error: recipe and code: train.lr: 0.5 in process 1, but 0.01 in process 0; give all of them",
    "no data on one": "error: data.path: nothing there (process 1 of 2",
    "another code": "error: recipe and code: e2ed2: 0 ",
    "other data": "error: data: items: 24 in process 1, but 23 in process 0; give all of them the same",
    "no recipe on one": "gone.yaml: no such file",
    "a full memory": "(allocate 8.00 GiB) (process 1 of 2, on ",
    "a port in use": "another program listens at this port; give another (`accelerate launch --main_process_port`)",
    "a shard missing": "none of its checkpoints can be read",
    "a number that cannot share": "2 micro-batches an update, which they cannot share evenly; run one of 1, 2",
    "deepspeed": "error: accelerate launch --use_deepspeed: not supported, as DeepSpeed clips and steps",
    "fsdp 1": "error: accelerate launch --use_fsdp: fsdp_version 1, but it must be 2: `--fsdp_version 2`",
}
QUICK = ["another recipe", "no data on one"]
SOON = 200  # seconds, also beside other work; one that waits without end is ended after 400


def drive(folder, ways):
    command = [sys.executable, DRIVER, folder, *ways]
    done = subprocess.run(command, env={**os.environ, **ALONE}, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def lines(end, kind="error"):
    return [line for said in end["said"] for line in said.splitlines() if line.startswith(f"{kind}: ")]


def check_bad(end, expected):
    assert set(end["statuses"]) == {2}, end
    assert len(lines(end)) == 1 and expected in lines(end)[0], end
    assert "Traceback" not in "".join(end["said"]) and end["seconds"] < SOON


def test_bad_input_ends_all_and_one_says_so(tmp_path):
    for way, end in drive(tmp_path, QUICK).items():
        check_bad(end, BAD[way])


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    return drive(tmp_path_factory.mktemp("ends"), [])


@pytest.mark.slow
@pytest.mark.parametrize("way", BAD)
def test_every_bad_input(outcome, way):
    check_bad(outcome[way], BAD[way])


@pytest.mark.slow
def test_one_that_never_comes_is_not_waited_for_without_end(outcome):
    end = outcome["one that never comes"]
    assert end["statuses"] == [2, 0] and end["seconds"] < SOON
    assert "not all 2 processes came within 5 s" in lines(end)[0]


@pytest.mark.slow
def test_a_missing_shard_is_named_and_the_checkpoint_before_it_taken(outcome):
    end = outcome["a shard missing of the newest"]
    assert end["statuses"] == [0, 0]
    said = "".join(end["said"])
    assert "step-8: shard-00002-model-00001-of-00001.safetensors is missing; step 8 is passed over" in said
    assert "run at step 4" in said


@pytest.mark.slow
@pytest.mark.parametrize("how", ["DDP", "shards"])
@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_either_saves_once_and_ends_all(outcome, rank, how):
    end = outcome[f"SIGTERM to {rank}, {how}"]
    assert end["statuses"] == [130, 130] and end["saved"] == [f"step-{end['steps']}"]
    (line,) = lines(end, "interrupted") if len(lines(end, "interrupted")) == 1 else lines(end, "interrupted")[1:]
    assert line.startswith(f"interrupted: step {end['steps']} is saved; run the same command to go on")


@pytest.mark.slow
@pytest.mark.parametrize(("way", "statuses"), [("one that is killed", [1, -9]), ("the first that is killed", [-9, 1])])
def test_the_one_that_is_left_says_so_and_leaves(outcome, way, statuses):
    end = outcome[way]
    assert end["statuses"] == statuses and end["seconds"] < SOON
    (line,) = lines(end)
    assert line.startswith("error: another process was lost") and "run the same command again" in line
    assert "Traceback" not in "".join(end["said"])
