"""Which sampler a few-step model is known to be used with, and from where."""

import shutil
from pathlib import Path

import pytest

from e2ed2.finetune import starts
from e2ed2.finetune.starts import Start, find_start
from e2ed2.system.errors import UserError
from tests.models.tiny import SIDE, save_tiny, write_json

LCM_LORA = "latent-consistency/lcm-lora-sdv1-5"
LIGHTNING = "ByteDance/SDXL-Lightning/sdxl_lightning_4step_unet.safetensors"


def short(start: Start) -> tuple:
    """(steps, solver, guidance, whether any number of steps, side)."""
    return start.steps, start.solver, start.guidance_scale, start.any_steps, start.side


@pytest.fixture(scope="module")
def lcm(tmp_path_factory) -> Path:
    """A plain LCM, without `inference.json`."""
    from diffusers import LCMScheduler

    return save_tiny("PixArtAlphaPipeline", tmp_path_factory.mktemp("lcm") / "it", scheduler=LCMScheduler())


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A pipeline of many steps."""
    return save_tiny("StableDiffusionPipeline", tmp_path_factory.mktemp("plain") / "it")


def test_a_model_of_ours_tells_its_own_sampler(tiny_model):
    start = find_start(str(tiny_model), {}, None)
    assert short(start) == (4, "lcm", 1, True, 64)
    assert (start.folder, start.model.path, start.why) == (tiny_model, str(tiny_model), "its inference.json")


def test_a_model_with_a_network_for_each_step_serves_its_own_number_alone(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    networks = ["transformer", "transformer_2", "transformer_3", "transformer_4"]
    write_json(folder / "inference.json", transformers=networks, height=32, guidance_scale=0.0)
    assert short(find_start(str(folder), {}, None)) == (4, "lcm", 1, False, 32)


def test_the_scheduler_of_a_plain_folder_tells(lcm):
    start = find_start(str(lcm), {}, None)
    assert short(start) == (4, "lcm", 1, True, SIDE)
    assert start.why.startswith("the table of known few-step models (")


def test_an_adapter_tells_by_its_name(plain):
    start = find_start(str(plain), {"lora": [LCM_LORA]}, None)
    assert short(start) == (4, "lcm", 1, True, SIDE)
    assert start.model.lora == [LCM_LORA]


def test_an_adapter_is_added_at_the_scale_that_is_known_of_it(plain):
    """Hyper-SD's of FLUX at 0.125, by its model card; at the user's own where one is given."""
    hyper = "ByteDance/Hyper-SD/Hyper-FLUX.1-dev-8steps-lora.safetensors"
    start = find_start(str(plain), {"lora": ["org/style", hyper]}, None)
    assert short(start) == (8, "euler", 3.5, False, 1024)
    assert start.model.lora == ["org/style", f"{hyper}@0.125"]
    assert find_start(str(plain), {"lora": [f"{hyper}@0.2"]}, None).model.lora == [f"{hyper}@0.2"]


@pytest.mark.parametrize(
    ("name", "expected", "network"),
    [
        ("sdxl-turbo", (4, "ancestral", 1, True, 512), None),
        ("sdxl-lightning", (4, "ddim", 1, False, 1024), LIGHTNING),
    ],
)
def test_a_baseline_tells_where_its_model_lies(name, expected, network, plain, monkeypatch):
    asked = []
    monkeypatch.setattr(starts, "resolve_model", lambda *arguments: asked.append(arguments) or plain)
    start = find_start(name, {"revision": "main"}, None)
    assert short(start) == expected and start.folder == plain
    assert (start.model.network, start.model.revision, start.model.variant) == (network, "main", "fp16")
    assert asked == [(start.model.path, "main", "fp16", None)]


def test_of_what_nobody_knows_the_steps_have_to_be_given(plain):
    message = "it is none of the few-step models that are known here; give --steps, the number that it is sampled in"
    with pytest.raises(UserError, match=f"^model '{plain}': {message}"):
        find_start(str(plain), {}, None)
    start = find_start(str(plain), {}, 6)
    assert short(start) == (6, None, None, True, SIDE)
    assert start.why.startswith("--steps; it is none of the few-step models") and "its first samples" in start.why


def test_a_model_made_for_many_steps_is_none(tiny_bundle):
    with pytest.raises(UserError, match="^model 'emoji-base': it is made for 25 steps of ddim; give --steps"):
        find_start("emoji-base", {}, None)
    assert short(find_start("emoji-base", {}, 4)) == (4, None, None, True, 64)
    assert short(find_start("emoji-e2ed2", {}, None)) == (4, "lcm", 1, True, 64)


def test_the_given_steps_stand_in_place_of_the_model_s_own(tiny_model, lcm, plain):
    assert short(find_start(str(tiny_model), {}, 2)) == (2, "lcm", 1, True, 64)
    assert find_start(str(lcm), {}, 1).steps == 1
    assert find_start(str(plain), {"lora": [LCM_LORA]}, 8).steps == 8


def test_mistakes_are_told_before_anything_is_loaded(tmp_path, tiny_model):
    with pytest.raises(UserError, match=r"^model 'nothing/at/all': no such folder"):
        find_start("nothing/at/all", {}, 4)
    with pytest.raises(UserError, match=r"^model: lroa: .* found \['x'\]"):
        find_start(str(tiny_model), {"lroa": ["x"]}, None)
    with pytest.raises(UserError, match="not a loadable model folder"):
        find_start(str(tmp_path), {}, 4)
