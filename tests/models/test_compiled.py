"""Compiled blocks give the gradient of plain ones; no number of steps and no later update compiles again."""

import pytest
import torch
from torch._dynamo.utils import counters

from benchmarks.unroll import saving
from e2ed2.models.compiled import why_not_compiled
from e2ed2.training.latents.training_set import load_training_set
from e2ed2.training.log import read_metrics
from e2ed2.training.loop import train
from e2ed2.training.stages.create import create_stage
from tests.models.tiny import save_tiny

WAYS = {
    "plain": {},
    "steps": {"gradient_checkpointing": True},
    "blocks": {"model": {"gradient_checkpointing": True}},
    "selective": {"model": {"gradient_checkpointing": "selective"}},
    "lora": {"parameters": "lora"},
    "per step": {"parameters": "per_step", "random_num_steps": False},
    "offloaded": {"parameters": "lora", "model": {"frozen_weights": "offloaded"}},
}


def quiet(line):
    pass


def graphs():
    return counters["stats"]["unique_graphs"]


def gradient(config):
    """Of the sixth of six chains, of any length; how many graphs there were after each; bytes kept of the last."""
    torch._dynamo.reset()
    stage = create_stage(config, load_training_set(config.data, quiet), torch.device("cpu"), quiet)
    network = stage.network.train()
    generator = torch.Generator().manual_seed(0)
    counts = []
    for _ in range(6):
        network.zero_grad()
        with saving([]) as kept:
            loss = stage.loss_terms(network, network, torch.arange(2), generator)["l2"]
        loss.backward()
        counts.append(graphs())
    every = [p for p in network.parameters() if p.requires_grad]  # what a block leaves unused has none, or zeros
    found = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in every])
    return found, counts, sum(kept.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("class_name", "way"),
    [*(("PixArtSigmaPipeline", way) for way in WAYS),
     *((name, "plain") for name in ("StableDiffusionXLPipeline", "QwenImagePipeline"))],
)  # fmt: skip
def test_the_gradient_is_that_of_plain_blocks(class_name, way, recipe, tmp_path):
    start, fields = save_tiny(class_name, tmp_path / "start"), dict(WAYS[way])
    model = fields.pop("model", {})
    plain, _, all_of_it = gradient(recipe(tmp_path / "plain", start, model, **fields))
    before = graphs()
    compiled, counts, kept = gradient(recipe(tmp_path / "compiled", start, {**model, "compile": True}, **fields))
    assert before < counts[0] and plain.norm() > 0
    assert (compiled - plain).norm() < 1e-4 * plain.norm()
    assert counts[-1] == counts[2]
    if way == "selective":  # as the compiler selects; the plain run as we do
        whole = gradient(recipe(tmp_path / "whole", start, {"compile": True}))[2]
        assert kept < 0.75 * whole
    elif way == "plain":
        assert kept <= all_of_it


def test_without_a_compiler_it_is_said_and_the_training_goes_on(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    torch._dynamo.reset()
    told = []
    start = save_tiny("PixArtSigmaPipeline", tmp_path / "start")
    config = recipe(tmp_path / "run", start, {"compile": True}, {"max_train_steps": 2, "log_every": 1})
    train(config, told.append)
    (said,) = [line for line in told if "model.compile" in line]
    assert said.startswith("note: model.compile is left out, the training goes on without: ") and "\n" not in said
    assert [row["global_step"] for row in read_metrics(config.run.dir / "metrics.jsonl")] == [1, 2]


def test_a_network_whose_blocks_are_not_known_stays_as_it_is():
    assert why_not_compiled(torch.nn.Linear(1, 1), torch.device("cpu")) == "a Linear has no blocks that repeat"
