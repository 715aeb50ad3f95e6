"""The Python on a model's card, run inside its folder, leaves in `image` what `e2ed2 sample` draws."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from e2ed2.models.folders.pipeline import load_pipeline, save_pipeline
from e2ed2.recipe.load import build_config
from e2ed2.sampling.generate import Request
from e2ed2.sampling.model import load_model
from e2ed2.training.loop import train
from tests.conftest import tiny_transformer
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


KINDS = {  # what is beside the pipeline's class -> options of the tiny copy, the model's and the run's
    "SD 1.5 with a safety checker": ("SD 1.5", {"is_filtered": True}, {}),
    "an adapter": ("PixArt-Sigma", {}, {"parameters": "lora", "solver": "lcm"}),
    "an adapter for each step": ("SDXL", {}, {"parameters": "lora_per_step"}),
    "a network for each step": ("PixArt-Sigma", {}, {"parameters": "per_step"}),
    "a learned grid": ("SD 1.5", {}, {"time_grid": "learned", "num_inference_steps": 3}),
    "learned grids": ("PixArt-Sigma", {}, {"time_grid": "learned", "num_inference_steps": 3, "random_num_steps": True}),
    "a learned grid of a flow": ("SD 3", {}, {"time_grid": "learned_alone", "num_inference_steps": 3}),
    "a learned grid of DDPM's steps": ("SD 1.5", {}, {"time_grid": "learned", "solver": "ancestral"}),
    "PixArt-Sigma": ("PixArt-Sigma", {}, {}),
    "SDXL": ("SDXL", {}, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_card_of_every_kind_of_run_draws_what_we_sample(kind, recipe, tmp_path, monkeypatch):
    case, options, trajectory = KINDS[kind]
    start = save_tiny(CASES[case][0], tmp_path / "start", **options)
    folder = train(recipe(tmp_path / "run", start, train={"ema_decay": 0}, **trajectory), quiet)
    theirs, request = drawn_by_the_card(folder, monkeypatch)
    assert request == Request("a red cat", 0)  # the first caption
    assert theirs.float().std() > 5 and difference(load_model(".").sampler([request]), theirs) <= 1
    card = (folder / "README.md").read_text()
    assert 'e2ed2 sample . "a red cat" --seed 0 --num 1' in card and "twemoji" not in card
    assert ("safety_checker=None" in card) == bool(options)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["SD 1.5", "PixArt-Sigma", "SDXL", "SD 3"])
def test_the_card_of_a_start_in_half_precision_without_a_variant(case, recipe, tmp_path, monkeypatch):
    from diffusers import DiffusionPipeline

    plain = DiffusionPipeline.from_pretrained(start_of(case, tmp_path / "plain"), dtype=torch.float16)
    plain.save_pretrained(tmp_path / "start")
    folder = train(recipe(tmp_path / "run", tmp_path / "start"), quiet)
    theirs, request = drawn_by_the_card(folder, monkeypatch)
    assert difference(load_model(".").sampler([request]), theirs) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "caption",
    ['a "red" cat', "it's 5$ & `ls`", "back\\slash \\n", "```python\nx```", "\N{WOMAN}\u200d\N{ROCKET}'", "a\tb\x85c"],
)
def test_any_caption_is_python_and_leaves_the_card_whole(caption, tiny_model, tmp_path, monkeypatch):
    pipeline, inference = load_pipeline(tiny_model)
    save_pipeline(pipeline, inference, tmp_path / "model", prompt=caption)
    theirs, request = drawn_by_the_card(tmp_path / "model", monkeypatch)
    assert request.prompt == caption
    assert difference(load_model(".").sampler([request]), theirs) <= 1
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.count("```") == 2
    asked = re.search(r"`(e2ed2 sample .*?)` draws", card)[1]
    assert shlex.split(asked)[2:4] in ([".", caption], [".", "PROMPT"])


CARDS = ["PixArt-alpha", "SD 1.5", "SD 1.5 guided in the chain", "LCM", "SDXL", "SDXL-Lightning", "SD 3"]


@pytest.mark.slow
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


@pytest.mark.slow
def test_stages_on_data_of_one_s_own_draw_a_prompt_of_it(tiny_bundle, pictures, tmp_path, monkeypatch):
    """A new network on the bundled autoencoder, and what is made of it: no card tells the bundled models' prompt."""
    architecture = tiny_transformer(caption_channels=384).config
    fields = ("sample_size", "patch_size", "num_layers", "num_attention_heads", "attention_head_dim", "norm_type")
    new = {name: architecture[name] for name in (*fields, "cross_attention_dim", "caption_channels", "in_channels")}
    data = {"source": "folder", "path": pictures, "size": 64}
    often = {"max_train_steps": 1, "micro_batch_size": 2, "mixed_precision": "no"}
    start = "emoji-autoencoder"
    for stage in ("base", "lcm", "e2ed2"):
        model = {"path": start, **({"architecture": {**new, "out_channels": 4}} if stage == "base" else {})}
        values = {"stage": stage, "run": {"dir": tmp_path / stage}, "model": model, "data": data, "train": often}
        values |= {"objective": {"l2": {"weight": 1}}} if stage == "e2ed2" else {}
        start = str(train(build_config(values), quiet))
        theirs, request = drawn_by_the_card(Path(start), monkeypatch)
        assert request.prompt == "a red cat" and difference(load_model(".").sampler([request]), theirs) <= 1
    told = Path("README.md").read_text(), (tmp_path / "lcm" / "model" / "README.md").read_text()
    assert "| objective | 1 l2 |" in told[0] and "| objective | 1 consistency |" in told[1]
    assert all("| start | a local model |" in card and str(tmp_path) not in card for card in told)
