"""The discriminator in training: who learns when, how often, and its state over an interruption."""

import copy

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel

from e2ed2.models.losses.discriminator import Discriminator, FeatureDiscriminator
from e2ed2.recipe.config import TrainConfig
from e2ed2.recipe.objective import AdversarialConfig
from e2ed2.system.drawing.sheets import Sheet
from e2ed2.system.errors import UserError
from e2ed2.training import loop
from e2ed2.training.log import read_metrics
from e2ed2.training.loop import train
from e2ed2.training.stages.adversary import Adversary
from e2ed2.training.step import Trained, update
from tests.training.conftest import NUM_ITEMS, order, timeless, tiny_config


class GanStage:
    """A constant image as the sampler, another one as the data; the discriminator tells them apart by their level."""

    began_at = None

    def __init__(self, config=None, data=None, device="cpu", say=print, **settings):
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.1), nn.Linear(8, 1))
        self.weights = {"adversarial": 1.0}
        settings = AdversarialConfig(**settings)
        self.adversary = Adversary(settings, Discriminator(1, width=16), torch.device("cpu"), self.stack, self.look)
        self.drawn_rows = []

    def stack(self, network, rows, generator):
        self.drawn_rows.append(rows)
        noise = torch.randn(len(rows), 1, 16, 16, generator=generator)
        return torch.stack([self.images(network, rows).detach() + 0.1 * noise.flip(0), 2 + 0.1 * noise])

    def look(self, stack, generator):
        return [stack.flatten(0, 1)]

    def images(self, network, rows):
        return network(torch.ones(len(rows), 1))[..., None, None].expand(-1, 1, 16, 16)

    def loss_terms(self, network, ema, rows, generator):
        images = self.images(network, rows)
        if self.adversary.settings.buffer_size > 0:
            self.adversary.remember(torch.stack([images, torch.full_like(images, 2)]))
        return {"adversarial": self.adversary.adversarial_loss([images])}

    def preview(self, network):
        return Sheet(["an image"], {"sample": torch.zeros(1, 3, 4, 4, dtype=torch.uint8)})

    def export(self, network, folder):
        (folder / "level.txt").write_text(str(network(torch.ones(1, 1)).item()))


def run(stage, num_updates, **settings):
    config = TrainConfig(micro_batch_size=4, lr=1e-2, mixed_precision="no", **settings)
    optimizer = torch.optim.AdamW(stage.network.parameters(), weight_decay=0.0)
    trained = Trained(stage.network, AveragedModel(stage.network), optimizer)
    accelerator = Accelerator(mixed_precision="no")
    return [update(stage, trained, config, order(config), step, accelerator) for step in range(num_updates)]


def test_four_convolutions_4x4_three_of_which_halve():
    layers = [layer for layer in Discriminator(3).layers if isinstance(layer, nn.Conv2d)]
    assert [(layer.kernel_size, layer.stride) for layer in layers] == [((4, 4), (2, 2))] * 3 + [((4, 4), (1, 1))]
    assert Discriminator(3)([torch.zeros(2, 3, 64, 64)])[0].shape == (2, 1, 7, 7)
    assert Discriminator(4)([torch.zeros(2, 4, 16, 16)])[0].shape == (2, 1, 1, 1)


def test_heads_on_features_see_a_place_and_its_neighbours_only():
    torch.manual_seed(0)
    maps = [torch.randn(2, 8, 9, 9), torch.randn(2, 16, 4, 4)]
    network = FeatureDiscriminator([8, 16])
    before = network(maps)
    assert [tuple(logits.shape) for logits in before] == [(2, 1, 9, 9), (2, 1, 4, 4)]
    maps[0][0, :, 4, 4] += 1
    after = network(maps)
    moved = (after[0] - before[0]).abs() > 0
    assert moved[0, 0, 3:6, 3:6].all() and moved.sum() == 9 and torch.equal(after[1], before[1])


def test_a_buffer_of_past_samples_replaces_new_ones_and_forgets_the_oldest():
    stage = GanStage(buffer_size=2, num_discriminator_updates=3)
    run(stage, 1)
    assert len(stage.drawn_rows) == 3  # nothing is remembered before the sampler's first update
    seen = []
    look = stage.adversary._look
    stage.adversary._look = lambda stack, generator: seen.append(stack[0, 0, 0, 0, 0].item()) or look(stack, generator)
    run(stage, 6)
    assert len(stage.drawn_rows) == 3
    assert len(seen) == 18 and len(set(seen)) > 4  # of the newest two each time


def test_five_updates_on_fresh_rows_before_each_of_the_sampler_s_whatever_the_accumulation():
    stage = GanStage()
    run(stage, 2, gradient_accumulation_steps=3)
    assert len(stage.drawn_rows) == 10
    assert len({tuple(rows.tolist()) for rows in stage.drawn_rows}) == 10


def test_its_update_leaves_the_sampler_and_the_sampler_s_leaves_it():
    stage = GanStage(num_discriminator_updates=1)
    sampler, critic = copy.deepcopy(stage.network), copy.deepcopy(stage.adversary.network)
    terms = stage.adversary.loss_terms(stage.network, torch.arange(4), torch.Generator().manual_seed(0))
    stage.adversary.step(terms, Accelerator(mixed_precision="no"))
    assert all(torch.equal(a, b) for a, b in zip(stage.network.parameters(), sampler.parameters(), strict=True))
    after = copy.deepcopy(stage.adversary.network)
    assert any(not torch.equal(a, b) for a, b in zip(after.parameters(), critic.parameters(), strict=True))
    stage.loss_terms(stage.network, None, torch.arange(4), None)["adversarial"].backward()
    assert stage.network[0].weight.grad is not None
    assert all(torch.equal(a, b) for a, b in zip(after.parameters(), stage.adversary.network.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["hinge", "non_saturating", "least_squares"])
def test_the_sampler_reaches_the_data(loss):
    """The data is an image of level 2; the sampler starts elsewhere and is told only by the discriminator."""
    stage = GanStage(loss=loss, r1_weight=0.1, lr=1e-3)
    rows = run(stage, 250)
    assert stage.network.eval()(torch.ones(1, 1)).item() == pytest.approx(2, abs=0.4)
    assert {"discriminator", "r1", "adversarial"} <= set(rows[-1])


@pytest.mark.parametrize("buffer_size", [0, 3])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path, monkeypatch, buffer_size):
    monkeypatch.setattr(loop, "create_stage", lambda *args: GanStage(buffer_size=buffer_size))
    monkeypatch.setattr(loop, "load_training_set", lambda *args: range(NUM_ITEMS))
    whole = train(tiny_config(tmp_path / "whole"))
    train(tiny_config(tmp_path / "parts", max_train_steps=5))
    parts = train(tiny_config(tmp_path / "parts"))
    assert (parts / "level.txt").read_text() == (whole / "level.txt").read_text()
    rows = [timeless(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("whole", "parts")]
    assert rows[0] == rows[1] and "discriminator" in rows[0][-1]


@pytest.mark.slow
def test_a_discriminator_that_wins_is_reported_once(tmp_path, monkeypatch):
    """Against a sampler that hardly moves."""
    monkeypatch.setattr(loop, "create_stage", lambda *args: GanStage(lr=1e-2))
    monkeypatch.setattr(loop, "load_training_set", lambda *args: range(NUM_ITEMS))
    said = []
    train(tiny_config(tmp_path / "run", lr=1e-9, max_train_steps=120, preview_every=500), said.append)
    (line,) = [line for line in said if "discriminator has won" in line]
    step = int(line.split()[1].rstrip(":"))
    logged = read_metrics(tmp_path / "run" / "metrics.jsonl")
    rows = {row["global_step"]: row["discriminator"] for row in logged}
    assert step > 50 and max(rows[s] for s in range(step - 49, step + 1)) < 1e-3 <= rows[step - 50]
    won_for = {row["global_step"]: row["discriminator_won_for"] for row in logged}
    assert [won_for[s] for s in range(step - 50, step + 1)] == list(range(51))


@pytest.mark.slow
def test_a_discriminator_that_goes_on_winning_is_reported_after_a_resume(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "create_stage", lambda *args: GanStage())
    monkeypatch.setattr(loop, "load_training_set", lambda *args: range(NUM_ITEMS))
    monkeypatch.setattr(loop, "PINNED_LOSS", 1e9)  # as if it had won from the first update on
    told = []
    for steps in (30, 60, 70):
        said = []
        train(tiny_config(tmp_path / "run", max_train_steps=steps, preview_every=500), said.append)
        told.append([line.split(":")[0] for line in said if "discriminator has won" in line])
    assert told == [[], ["step 50"], []]
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["discriminator_won_for"] for row in rows] == list(range(1, 71))


def test_a_state_of_another_discriminator_is_refused(tmp_path):
    GanStage().adversary.save(tmp_path)
    stage = GanStage()
    other = Adversary(AdversarialConfig(), Discriminator(3), torch.device("cpu"), stage.stack, stage.look)
    with pytest.raises(UserError, match="discriminator.pt: not the state"):
        other.load(tmp_path)
