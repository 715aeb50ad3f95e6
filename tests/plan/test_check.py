"""Whether a run fits, said before it is loaded."""

from pathlib import Path

import pytest

from e2ed2.models.memory import needs as module
from e2ed2.models.memory.needs import Needs
from e2ed2.recipe.load import load_config
from e2ed2.system.errors import UserError

GIB = 2**30


@pytest.fixture
def device(monkeypatch, tiny_model):
    """Of 10 GiB; an image takes 4, with steps recomputed 1.5. Gives a check of a recipe."""
    monkeypatch.setattr(module, "device_memory", lambda: 10 * GIB)
    monkeypatch.setattr(module, "SMALL", 0.0)

    def fake(config, folder, *, half):
        each = 1.5 if config.trajectory.gradient_checkpointing else 4
        return Needs({"chain": int(each * config.train.micro_batch_size * GIB)}, 1.0, 1)

    monkeypatch.setattr(module, "needs", fake)
    recipe = Path("emoji/l2")

    def check(say, *overrides):
        module.check_memory(load_config(recipe, [f"model.path={tiny_model}", *overrides]), tiny_model, say)

    return check


def test_what_fits_is_said(device):
    said = []
    device(said.append, "train.micro_batch_size=2")
    assert said == ["memory: about 8.0 GiB of 10.0, by count"]


def test_what_does_not_fit_is_refused_with_the_setting_that_does(device):
    with pytest.raises(UserError) as refused:
        device(print, "train.micro_batch_size=4")
    assert str(refused.value) == (
        "memory: about 16.0 GiB of 10.0, by count: the run would end for lack of it; set train.micro_batch_size=2 "
        "train.gradient_accumulation_steps=2"
    )


def test_a_small_model_is_not_counted(device, monkeypatch):
    monkeypatch.setattr(module, "SMALL", 0.5)
    said: list[str] = []
    device(said.append, "train.micro_batch_size=400")
    assert said == []


def test_other_stages_are_not_counted(monkeypatch, tiny_model):
    monkeypatch.setattr(module, "device_memory", lambda: 1)
    module.check_memory(load_config(Path("emoji/lcm"), [f"model.path={tiny_model}"]), tiny_model, pytest.fail)
