"""Another number of processes, or one that was killed, changes neither what is trained on nor the losses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.cluster.ranks import ALONE
from tests.training.conftest import NUM_ITEMS

DRIVER = Path(__file__).parent / "many_ranks.py"


def drive(folder, kills, *ways):
    command = [sys.executable, DRIVER, folder, str(kills), *ways]
    done = subprocess.run(command, env={**os.environ, **ALONE}, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def check_turns(outcome, how):
    """Two processes, then one, then three: the joint batch's items and losses."""
    turns = outcome[how]["in turn"]
    assert turns["statuses"] == [[0, 0], [0], [0, 0, 0]], outcome["said"]
    assert turns["items"] == outcome["items"] and len(turns["items"]) == 12
    drawn = [item for update in turns["items"] for item in update]
    assert len(drawn) == 144 and all(drawn.count(item) in (6, 7) for item in range(NUM_ITEMS))  # once an epoch
    assert turns["rows"] == [pytest.approx(row, rel=1e-5) for row in outcome["rows"]]


def test_two_then_one_then_three_processes_are_one_run(tmp_path):
    check_turns(drive(tmp_path, 0, "shards"), "shards")


@pytest.mark.slow
def test_a_process_killed_at_random_moments_changes_no_loss(tmp_path):
    outcome = drive(tmp_path, 20, "DDP", "shards")
    for how in ("DDP", "shards"):
        check_turns(outcome, how)
        killed = outcome[how]["killed"]
        assert len(killed["ends"]) == 20 and killed["last"] == [0, 0], outcome["said"]
        assert killed["same"] and killed["num_rows"] == 60 and killed["num_resumed"] > 0
        assert all(sorted(statuses) in ([-9, 1], [-9, 0]) for statuses in killed["ends"])  # the other left, and soon
