"""The Python on a model's card, run inside its folder, leaves in `image` what `e2ed2 sample` draws."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from e2ed2.sampling.generate import Request
from e2ed2.sampling.model import load_model
from e2ed2.training.loop import train
from tests.models.test_families import CASES, difference, quiet, start_of
from tests.models.tiny import save_tiny


def drawn_by_the_card(folder: Path, monkeypatch) -> tuple[torch.Tensor, Request]:
    """The picture that the card's first block leaves in `image`, uint8 [1, 3, H, W], and what was asked for."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)[1]
    monkeypatch.chdir(folder)
    scope: dict[str, Any] = {}
    exec(code, scope)
    picture = torch.from_numpy(np.array(scope["image"])).permute(2, 0, 1)
    return picture[None], Request(scope["prompt"], scope["seed"])


def test_a_unet_for_each_step_is_run_by_the_code_on_its_card(recipe, tmp_path, monkeypatch):
    start = save_tiny("StableDiffusionXLPipeline", tmp_path / "start")
    folder = train(recipe(tmp_path / "run", start, parameters="per_step", train={"ema_decay": 0}), quiet)
    assert (folder / "unet_2" / "config.json").is_file()
    theirs, request = drawn_by_the_card(folder, monkeypatch)
    assert difference(load_model(str(folder)).sampler([request]), theirs) <= 1


CARDS = ["PixArt-alpha", "SD 1.5", "SD 1.5 guided in the chain", "LCM", "SDXL", "SDXL-Lightning", "SD 3"]


@pytest.mark.parametrize(
    ("case", "is_sharded"), [*((case, True) for case in CARDS), ("SD 1.5", False), ("PixArt-alpha", False)]
)
def test_the_card_of_a_start_in_half_precision_draws_what_we_sample(case, is_sharded, recipe, tmp_path, monkeypatch):
    """Its text encoders stay in half precision, and plain diffusers would run them so beside a network in float32."""
    from diffusers import DiffusionPipeline

    start, size = tmp_path / "start", {"max_shard_size": "4KB"} if is_sharded else {}
    plain = DiffusionPipeline.from_pretrained(start_of(case, tmp_path / "plain"), dtype=torch.float16)
    plain.save_pretrained(start, variant="fp16", **size)
    folder = train(recipe(tmp_path / "run", start, model={"variant": "fp16"}, **CASES[case][2]), quiet)
    theirs, request = drawn_by_the_card(folder, monkeypatch)
    assert difference(load_model(".").sampler([request]), theirs) <= 1  # of 255: each rounds its own pixels
