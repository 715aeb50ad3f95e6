"""The gradients of two processes are those of one that has the joint batch: DDP and shards, all that is trained."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.cluster.ranks import ALONE

DRIVER = Path(__file__).parent / "gradients.py"
WAYS = [
    "full", "LoRA", "GAN", "a LoRA a step", "GAN with R1", "computed again", "selectively", "compiled",
    "kept near the start", "LoRA kept near the start", "LoRA and grid kept near the start",
]  # fmt: skip
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcome(tiny_model, tmp_path_factory):
    """way -> how -> what came of two updates of two processes."""
    command = [sys.executable, DRIVER, tmp_path_factory.mktemp("gradients"), tiny_model]
    done = subprocess.run(command, env={**os.environ, **ALONE}, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("how", ["DDP", "shards", "shards a block"])
def test_gradients_are_added_up_in_the_last_micro_batch_alone(outcome, how):
    (status, of_two), (_, of_four) = outcome["reductions"][how]
    assert status == [0, 0] and of_two == of_four and min(of_two) > 0


@pytest.mark.parametrize("how", ["DDP", "shards", "shards a block"])
def test_a_gan_goes_on_with_each_process_s_past_samples(outcome, how):
    found = outcome["goes on"][how]
    assert found["statuses"] == [[0, 0]] * 3, found["said"]
    whole, parts = found["rows"]
    assert len(whole) == 4 and whole == parts


@pytest.mark.parametrize("how", ["DDP", "shards", "shards a block"])
@pytest.mark.parametrize("way", WAYS)
def test_two_processes_have_the_gradients_of_the_joint_batch(outcome, way, how):
    assert outcome[way]["one"] == [0] and outcome[way][how]["status"] == [0, 0], outcome[way]["said"]
    assert outcome[way][how]["difference"] <= 1e-5
    assert outcome[way][how]["models"] == (["discriminator"] if "GAN" in way else []) + ["sampler"]
    ours, theirs = outcome[way][how]["losses"]
    assert len(ours) == 2 and ours == [pytest.approx(row, rel=1e-5) for row in theirs]
