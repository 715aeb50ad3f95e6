"""A stage small enough to train in milliseconds, in the place of the real ones."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from e2ed2.data.order import ShuffledOrder
from e2ed2.recipe.load import build_config
from e2ed2.system.drawing.sheets import Sheet
from e2ed2.training import loop

NUM_ITEMS = 23


class TinyStage:
    """Regression with every kind of randomness and state that a real stage has.

    The loss depends on the rows, on the generator, on dropout and on the average; `watched` has no weight.
    """

    adversary = began_at = None

    def __init__(self, config=None, data=None, device="cpu", say=print):
        self.network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 1)).to(device)
        self.weights = {"fit": 1.0, "smooth": 0.5}
        self.table = torch.randn(NUM_ITEMS, 4, generator=torch.Generator().manual_seed(7)).to(device)

    def loss_terms(self, network, ema, rows, generator):
        x, y = self.table[rows, :3], self.table[rows, 3:]
        estimate = network(x + 0.1 * torch.randn(x.shape, generator=generator).to(x))
        with torch.no_grad():
            average = ema(x)
        fit, smooth = (estimate - y).square().mean(), (estimate - average).abs().mean()
        return {"fit": fit, "smooth": smooth, "watched": estimate.mean()}

    @torch.no_grad()
    def preview(self, network):
        shades = network.eval()(self.table[:10, :3]).sigmoid().mul(255).to(torch.uint8)
        return Sheet([f"item {i}" for i in range(10)], {"sample": shades[:, :, None, None].expand(-1, 3, 4, 4)})

    def export(self, network, folder):
        (folder / "part").mkdir()
        save_file(network.state_dict(), folder / "part" / "weights.safetensors")


def order(config):
    """The batches of a train section over the tiny stage's items."""
    return ShuffledOrder(config.seed, NUM_ITEMS, config.micro_batch_size)


def tiny_config(run_dir: Path, **train):
    """A recipe of the tiny stage: 12 updates, a checkpoint every 5, every row logged."""
    defaults = {"max_train_steps": 12, "micro_batch_size": 4, "gradient_accumulation_steps": 2, "lr": 1e-2}
    often = {"checkpoint_every": 5, "log_every": 1, "preview_every": 6, "mixed_precision": "no"}
    model = {"path": "unused", "architecture": {}}
    train = {**defaults, **often, **train}
    return build_config({"stage": "base", "run": {"dir": run_dir}, "model": model, "train": train})


def timeless(rows):
    """Metrics rows without what a clock or the machine decides."""
    return [{k: v for k, v in row.items() if k not in ("images_per_second", "peak_memory_bytes")} for row in rows]


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """`tiny(**train)` -> a config whose stage is the tiny one, in `tmp_path/run`."""
    monkeypatch.setattr(loop, "create_stage", TinyStage)
    monkeypatch.setattr(loop, "load_training_set", lambda config, say, progress: range(NUM_ITEMS))
    return lambda **train: tiny_config(tmp_path / "run", **train)


@pytest.fixture
def tiny_stage():
    return TinyStage


@pytest.fixture
def without_time():
    return timeless
