"""Runs that take less memory end as the plain one does, or within what fewer bits leave; interrupted ones too."""

import json

import pytest
import torch
from safetensors.torch import load_file

from e2ed2.models.lora import ADAPTER_FILE
from e2ed2.system.errors import UserError
from e2ed2.system.files import file_sha256
from e2ed2.training.checkpoint import OPTIMIZER_FILE, STATE_FILE
from e2ed2.training.log import read_metrics
from e2ed2.training.loop import train
from tests.models.tiny import save_tiny

UPDATES = 50
WAYS = {  # what is set, and how far the adapter may then be from the plain run's, of the way that it went
    "blocks": ({"model": {"gradient_checkpointing": True}}, 1e-4),
    "activations": ({"train": {"offload_activations": True}}, 0.0),
    "offloaded": ({"model": {"frozen_weights": "offloaded"}}, 0.0),
    "int8": ({"model": {"frozen_weights": "int8"}}, 0.06),
    "nf4": ({"model": {"frozen_weights": "nf4"}}, 0.4),
    "adamw_8bit": ({"train": {"optimizer": "adamw_8bit"}}, 0.06),
}


def quiet(line):
    pass


def adapter(run, start, recipe, sections, updates=UPDATES):
    lora = {"parameters": "lora", "lora_rank": 64}
    settings = {"lr": 1e-3, "ema_decay": 0.0, "max_train_steps": updates, "preview_every": 1000, "log_every": 1}
    config = recipe(run, start, sections.get("model"), settings | sections.get("train", {}), **lora)
    tensors = load_file(train(config, quiet) / "lora" / ADAPTER_FILE)
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return save_tiny("StableDiffusionXLPipeline", tmp_path_factory.mktemp("start"))


@pytest.fixture
def plain(start, recipe, tmp_path):
    """The adapter after fifty updates, and how far it has come."""
    ended = adapter(tmp_path / "plain", start, recipe, {})
    begun = adapter(tmp_path / "begun", start, recipe, {"train": {"lr": 1e-12}}, updates=1)
    return ended, (ended - begun).norm()


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_fifty_updates_end_where_those_of_the_plain_run_do(way, start, plain, recipe, tmp_path):
    sections, tolerance = WAYS[way]
    ended, far = plain
    found = adapter(tmp_path / "run", start, recipe, sections)
    assert (found - ended).norm() <= tolerance * far


def test_an_adapter_begins_as_the_seed_says_whatever_was_loaded_before(start, recipe, tmp_path):
    first, again = (adapter(tmp_path / run, start, recipe, {}, updates=1) for run in ("a", "b"))
    other = adapter(tmp_path / "c", start, recipe, {"train": {"seed": 1}}, updates=1)
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("way", ["int8", "nf4", "offloaded", "adamw_8bit"])
def test_interrupted_and_gone_on_with_it_is_the_uninterrupted_run(way, start, recipe, tmp_path):
    whole = adapter(tmp_path / "whole", start, recipe, WAYS[way][0], updates=4)
    adapter(tmp_path / "parts", start, recipe, WAYS[way][0], updates=2)
    assert torch.equal(adapter(tmp_path / "parts", start, recipe, WAYS[way][0], updates=4), whole)
    totals = [[row["total"] for row in read_metrics(tmp_path / run / "metrics.jsonl")] for run in ("whole", "parts")]
    assert len(totals[0]) == 4 and totals[0] == totals[1]


def test_damaged_moments_of_8_bits_are_refused_in_one_line(start, recipe, tmp_path):
    sections = WAYS["adamw_8bit"][0]
    adapter(tmp_path / "run", start, recipe, sections, updates=2)
    (file,) = (tmp_path / "run").rglob(OPTIMIZER_FILE)
    state = torch.load(file, weights_only=True)
    moments = [m["__bnb_optimizer_quant_state__"] for m in state["state"].values()]
    assert any(m["state1"].dtype == torch.uint8 for m in moments), "some are of 4,096 values"
    moments[0]["state1"] = moments[0]["state1"][:1]
    torch.save(state, file)
    state_file = file.with_name(STATE_FILE)
    digests = json.loads(state_file.read_text())
    digests["sha256"][OPTIMIZER_FILE] = file_sha256(file)
    state_file.write_text(json.dumps(digests))
    with pytest.raises(UserError, match=rf"{OPTIMIZER_FILE}: not the state of this optimizer"):
        adapter(tmp_path / "run", start, recipe, sections, updates=4)
