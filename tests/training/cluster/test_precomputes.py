"""A cache does not depend, to the last byte, on how many processes made it, nor on when they were killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.cluster.ranks import ALONE

DRIVER = Path(__file__).parent / "precomputes.py"


@pytest.mark.slow
def test_two_that_are_killed_then_three_then_one_make_the_cache_of_one(tiny_model, tmp_path):
    command = [sys.executable, DRIVER, tmp_path, tiny_model]
    done = subprocess.run(command, env={**os.environ, **ALONE}, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["whole"] == [0] and found["number"] == 8
    assert found["2"] == [-9, -9] and found["3"] == [-9, -9, -9] and found["1"] == [0], found["said"]
    assert 2 <= found["done"][0] < found["done"][1] < 8 and found["same"]
