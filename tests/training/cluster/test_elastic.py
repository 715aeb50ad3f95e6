"""`torchrun` begins anew after a lost worker, and the training goes on as if nothing had been."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2ed2.training import loop
from e2ed2.training.log import read_metrics
from tests.training.cluster.ranks import ALONE, SHARDED
from tests.training.conftest import timeless

CHILD = Path(__file__).parent / "elastic_rank.py"
LAUNCHED = {**SHARDED, "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}  # as `accelerate launch --use_fsdp` sets them


@pytest.mark.slow
@pytest.mark.parametrize("env", [{}, LAUNCHED], ids=["DDP", "shards"])
def test_torchrun_goes_on_after_a_lost_worker(tiny, tmp_path, one_thread, env):
    config = tiny(gradient_accumulation_steps=3)
    (tmp_path / "recipe.yaml").write_text(config.to_yaml())
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    torchrun += ["--monitor-interval", "10"]  # seconds, in which the one that is left can say why it leaves
    command = [*torchrun, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", CHILD, tmp_path / "recipe.yaml"]
    done = subprocess.run(command, env={**os.environ, **ALONE, **env}, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "another process was lost" in done.stderr and f"resuming {config.run.dir} at step 5" in done.stderr
    rows = timeless(read_metrics(config.run.dir / "metrics.jsonl"))
    joint = {"gradient_accumulation_steps": 6}
    one = config.model_copy(
        update={
            "run": config.run.model_copy(update={"dir": tmp_path / "one"}),
            "train": config.train.model_copy(update=joint),
        }
    )
    loop.train(one, lambda line: None)
    expected = timeless(read_metrics(tmp_path / "one" / "metrics.jsonl"))
    assert len(rows) == 12 and rows == [pytest.approx(row, rel=1e-5) for row in expected]
