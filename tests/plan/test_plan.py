"""`e2ed2 plan`: the quickest setting that fits each card, from counts of round numbers; and of a true model."""

import json
import re
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from e2ed2.commands.app import app
from e2ed2.models.families import network_of
from e2ed2.models.folders.configs import CONFIGS, configs_of
from e2ed2.models.memory.counts import bare_pipeline, count_model
from e2ed2.models.memory.needs import Needs, needs
from e2ed2.plan import plan as module
from e2ed2.plan.plan import CARDS, CONTEXT, Card, plan, read_cards
from e2ed2.plan.table import text
from e2ed2.recipe.load import load_config
from e2ed2.recipe.shipped import recipe_file
from e2ed2.system.errors import UserError

GIB = 2**30
AGAIN = {False: 0, "selective": 1, True: 1}
OVERRIDES = ["data.source=folder", "data.path=x", "train.max_train_steps=3600", "objective.mmd.weight=0"]


def config(*overrides):
    return load_config(Path("emoji/e2ed2"), ["model.path=emoji-lcm", *OVERRIDES, *overrides])


@pytest.fixture
def counted(monkeypatch):
    """An image takes 2 GiB and 0.35 TFLOP a step; recomputing halves the one and costs a third more of the other.

    Selectively is not cheaper here, so that it is never taken.
    """

    def fake(config, folder, *, half):
        again = config.trajectory.gradient_checkpointing + AGAIN[config.model.gradient_checkpointing]
        rows = config.train.micro_batch_size
        parts = {"average": GIB, "chain": rows * 2 * GIB // 2**again}
        flops = 0.35e12 * rows * config.train.gradient_accumulation_steps * (3 + again) / 3
        return Needs(parts, flops, GIB // 4)

    monkeypatch.setattr(module, "needs", fake)


def test_the_quickest_setting_that_fits_a_card(counted):
    """Of 32 images 67 GiB; in two parts 34 with the libraries' one; a card for more copies the gradients."""
    cards = {"wide": Card(memory=66, rate=1, price=2), "small": Card(memory=34.5, rate=2, price=1)}
    rows = plan(config(), cards, [1, 2])
    found = {(row.gpu, row.num_gpus): row for row in rows}
    assert found["wide", 1].overrides == [] and found["wide", 1].peak_memory_bytes == 65 * GIB + CONTEXT
    assert found["wide", 2].overrides == ["train.micro_batch_size=16", "train.gradient_accumulation_steps=2"]
    assert found["small", 1].overrides == ["train.micro_batch_size=16", "train.gradient_accumulation_steps=2"]
    assert found["small", 2].overrides == ["train.micro_batch_size=8", "train.gradient_accumulation_steps=4"]
    assert all(row.fits for row in rows)
    small = found["small", 1]
    assert small.seconds_per_update == pytest.approx(32 / 2)
    assert (small.hours, small.cost) == (pytest.approx(16), pytest.approx(16))
    assert found["wide", 2].cost == pytest.approx(32 * 2 * 2)
    assert "The cheapest: 1 x small" in text(rows, Path("recipe.yaml"))


def test_what_fits_nowhere_is_said(counted):
    (row,) = plan(config(), {"tiny": Card(memory=1, rate=1, price=1)}, [1])
    assert not row.fits
    assert "None of these cards holds it" in text([row], Path("recipe.yaml"))


def test_a_card_that_is_not_known_says_how_to_add_it(tmp_path):
    with pytest.raises(UserError, match="--gpu GTX: .*H100 80GB.*add a line `GTX: {memory: GiB"):
        read_cards(None, ["GTX"])
    table = tmp_path / "cards.yaml"
    table.write_text(CARDS.read_text() + "GTX: {memory: 8, rate: 5, price: 0.1}\n")
    assert list(read_cards(table, ["GTX"])) == ["GTX"]
    table.write_text("GTX: {memory: -8, rate: 5, price: 0.1}\n")
    with pytest.raises(UserError, match="GTX.memory"):
        read_cards(table, [])


def test_a_model_without_configs_here_says_how_to_get_them():
    with pytest.raises(UserError, match="its configs are not here; fetch them with `hf download some/model"):
        configs_of("some/model")


ON_24_GB = {  # in recipes/today, with the weights of their networks in millions as their makers count them
    "today/flux2_klein": 3876, "today/flux1_schnell": 11891, "today/qwen_image_lightning": 20430,
    "today/z_image_turbo": 6155, "today/sd35_large_turbo": 8057, "today/sd35_medium": 2243,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_24_GB)
def test_recipes_of_today_fit_a_card_of_24_gb(name):
    config = load_config(recipe_file(Path(name)))
    (row,) = plan(config, read_cards(None, ["RTX 4090"]), [1])
    assert row.fits and needs(config, configs_of(config.model.path), half=True).peak_memory_bytes < 23 * 2**30
    network = network_of(bare_pipeline(configs_of(config.model.path), torch.device("meta")))
    assert round(sum(p.numel() for p in network.parameters()) / 1e6) == ON_24_GB[name]


@pytest.mark.slow
def test_configs_that_ship_are_of_the_published_models():
    """Weights as their makers count them: 611M and T5-XXL's encoder, 4,762M."""
    counts = count_model(CONFIGS / "PixArt-alpha--PixArt-LCM-XL-2-1024-MS", 256, window=8)
    millions = [round(count / 1e6) for count in (counts.num_trained, counts.num_text, counts.num_decoder)]
    assert millions == [611, 4762, 84]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["pixart_24gb", "pixart_80gb", "pixart_delta", "pixart_lora", "sd15_lora", "sdxl_lora", *ON_24_GB]
)
def test_what_the_head_of_a_recipe_says_is_counted(name):
    path = recipe_file(Path(name))
    told = re.search(r"counts: ([\d.]+) GiB a card.*?; ([\d.]+) PFLOP an", path.read_text().replace("\n# ", " "))
    config = load_config(path)
    counted = needs(config, configs_of(config.model.path), half=True)
    assert [float(figure) for figure in told.groups()] == [
        round(counted.peak_memory_bytes / 2**30, 1), round(counted.flops / 1e15, 2)
    ]  # fmt: skip


@pytest.mark.slow
def test_the_run_of_64_gpus_is_answered_without_a_network():
    started = time.process_time()
    rows = json.loads(CliRunner().invoke(app, ["plan", "pixart_delta", "--json"]).stdout)
    keys = {"gpu", "num_gpus", "peak_memory_bytes", "fits", "seconds_per_update", "hours", "cost", "overrides"}
    assert keys <= rows[0].keys()
    (h100,) = (row for row in rows if (row["gpu"], row["num_gpus"]) == ("H100 80GB", 64))
    assert h100["fits"] and h100["cost"] == pytest.approx(h100["hours"] * 64 * 2.5)
    assert time.process_time() - started < 20
