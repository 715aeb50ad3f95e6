"""A term of the user's own: what its function is shown, its gradient, a reward that rises, one line where it fails."""

import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from e2ed2.models.autoencoder import decode
from e2ed2.models.folders.pipeline import load_pipeline
from e2ed2.models.losses.plugin import PlugIn
from e2ed2.models.text import encode_prompts
from e2ed2.recipe.load import build_config, check_config
from e2ed2.sampling.generate import Request, Sampler
from e2ed2.system.errors import UserError
from e2ed2.training.inputs import check_inputs
from e2ed2.training.latents import training_set
from e2ed2.training.latents.precompute import precompute
from e2ed2.training.latents.training_set import load_training_set
from e2ed2.training.log import read_metrics
from e2ed2.training.loop import train
from e2ed2.training.stages.create import create_stage

ROOT = Path(__file__).parents[3]
ROWS = torch.arange(4)
FUNCTIONS = """
import torch

seen = []

def redness(images, prompts):
    seen.append((images.detach().clone(), prompts))
    return -images[:, 0].mean((1, 2))

def whole(images, prompts):
    return redness(images, prompts).mean()

def flat(images, prompts):
    return (0 * images).sum((1, 2, 3))

def column(images, prompts):
    return images.mean((1, 2, 3))[:, None]

def detached(images, prompts):
    return images.detach().mean((1, 2, 3))

def counted(images, prompts):
    return torch.ones(len(images), requires_grad=True)

def number(images, prompts):
    return 1.0

def array(images, prompts):
    return torch.from_numpy(images.numpy()).mean((1, 2, 3))

constant = 3
"""


@pytest.fixture
def functions(tmp_path, monkeypatch):
    """A file of functions in the current folder; afterwards nothing of it is left."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_terms.py").write_text(FUNCTIONS)
    yield lambda: sys.modules["my_terms"]
    sys.modules.pop("my_terms", None)


@pytest.fixture
def recipe(tiny_model, pictures, functions):
    def make(name: str = "redness", data: dict | None = None, objective: dict | None = None, **train: object):
        config = build_config(
            {
                "stage": "e2ed2",
                "run": {"dir": "run"},
                "model": {"path": str(tiny_model)},
                "data": {"source": "folder", "path": pictures, "size": 64, **(data or {})},
                "trajectory": {"num_inference_steps": 2, "start": "pure_noise"},
                "objective": {"plugin": {"function": f"my_terms:{name}", "weight": 1}, **(objective or {})},
                "train": {"micro_batch_size": 4, "mixed_precision": "no", "lr": 1e-2, "log_every": 1, **train},
            }
        )
        check_config(config)
        return config

    return make


def stage_of(config, say=lambda line: None):
    torch.manual_seed(0)
    return create_stage(config, load_training_set(config.data, print), torch.device("cpu"), say)


def loss_of(stage, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return stage.loss_terms(stage.network, stage.network, ROWS, generator)["plugin"]


@pytest.mark.parametrize("name", ["redness", "whole"])
def test_it_sees_the_decoded_samples_of_the_chain_and_its_gradient_reaches_every_weight(recipe, name):
    """Against the chain, the decoder and the function put together by hand."""
    stage = stage_of(recipe(name, objective={"num_samples": 2}))
    loss = loss_of(stage)
    loss.backward()
    got = {key: p.grad.clone() for key, p in stage.network.named_parameters() if p.grad is not None}
    stage.network.zero_grad()
    generator = torch.Generator().manual_seed(0)
    batch = stage.data.batch(ROWS, generator)
    samples = stage._samples(stage.network, batch, *stage._draw_start(generator), generator)[-1]
    expected = -decode(stage._pipeline.vae, samples.flatten(0, 1))[:, 0].mean()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    assert any(x.any() for x in got.values())
    for key, p in stage.network.named_parameters():
        torch.testing.assert_close(got[key], p.grad)


def test_a_crop_is_the_window_of_the_image_that_it_is_shown(recipe, functions):
    stage = stage_of(recipe(objective={"crop": {"size": 4, "halo": 12}, "num_samples": 2}))
    loss_of(stage)
    images, prompts = functions().seen[-1]
    assert images.shape == (8, 3, 16, 16) and len(prompts) == 8  # cells of 4 pixels


@pytest.mark.parametrize("kind", ["memory", "online", "cache"])
def test_prompts_are_those_that_the_samples_were_made_for(recipe, functions, kind, monkeypatch, tmp_path):
    """Known by their embeddings: what the sampler was told is what the text encoder makes of them."""
    if kind != "memory":
        monkeypatch.setattr(training_set, "MAX_BYTES_IN_MEMORY", 0)
    config = recipe(data={"caption_dropout": 0.4}, objective={"num_samples": 2})
    if kind == "cache":
        folder = precompute(config, tmp_path / "precomputed", lambda line: None)
        config = recipe(data={"source": "cache", "path": str(folder), "caption_dropout": 0.4})
    stage, dropped = stage_of(config), set()
    encoder, _ = load_pipeline(Path(config.model.path))
    told = []
    batch_of = stage.data.batch
    monkeypatch.setattr(stage.data, "batch", lambda *args: told.append(batch_of(*args)) or told[-1])
    for seed in range(3):
        loss_of(stage, seed)
        prompts = functions().seen[-1][1]
        expected = encode_prompts(prompts[:4], encoder)
        length = expected.mask.sum(1).max()
        torch.testing.assert_close(told[-1].cond.mask[:, :length].bool(), expected.mask[:, :length].bool())
        mask = expected.mask[:, :length].bool()
        torch.testing.assert_close(told[-1].cond.embeds[:, :length][mask], expected.embeds[:, :length][mask])
        assert prompts[4:] == (prompts[:4] if kind != "cache" else [])
        dropped |= {prompt == "" for prompt in prompts}
    assert dropped == {True, False}


def test_a_cache_that_does_not_hold_the_captions_is_refused(recipe, tmp_path, pictures):
    folder = tmp_path / "pairs"
    folder.mkdir()
    for path in pictures.glob("*.png"):
        (folder / path.name).write_bytes(path.read_bytes())
        (folder / path.with_suffix(".txt").name).write_text("one\nanother")
    config = recipe(data={"path": str(folder), "caption_per_line": True})
    made = precompute(config, tmp_path / "precomputed", lambda line: None)
    with pytest.raises(UserError, match="data.path: the cache .* keeps one caption of each item, and objective.plugin"):
        stage_of(recipe(data={"source": "cache", "path": str(made)}))


def test_a_reward_rises_in_training_and_its_model_is_redder(recipe, tmp_path):
    config = recipe(max_train_steps=30, preview_every=30, lr=3e-2)
    folder = train(config, lambda line: None)
    rewards = [-row["plugin"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.1

    def red(path) -> float:
        requests = [Request("a dog", seed) for seed in range(8)]
        return Sampler(*load_pipeline(path))(requests).float()[:, 0].mean().item()

    assert red(folder) > red(Path(config.model.path)) + 8


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("my_terms:column", r"returned \[2, 1\] for 2 images; return a loss for each image, \[2\], or one for all of"),
        ("my_terms:number", r"returned a float, no tensor; return a loss for each image"),
        ("my_terms:detached", "is not differentiable: its result carries no gradient of the images; torch.no_grad,"),
        ("my_terms:counted", "is not differentiable"),
        ("my_terms:array", r"fails on images \[2, 3, 64, 64\] and 2 prompts \(RuntimeError: .*, at my_terms.py:\d+\)"),
        ("my_terms:constant", "is a int, which cannot be called; give a function"),
        ("my_terms:nothing", r"cannot be imported \(AttributeError: .*nothing.*\); give package.module:function of a"),
        ("no_such_terms:redness", r"cannot be imported \(ModuleNotFoundError: No module named 'no_such_terms'\)"),
    ],
)
def test_a_function_that_is_no_term_is_refused_before_anything_is_encoded(
    functions, recipe, monkeypatch, name, problem
):
    config = recipe()
    plugin = config.objective.plugin.model_copy(update={"function": name})
    config = config.model_copy(update={"objective": config.objective.model_copy(update={"plugin": plugin})})
    monkeypatch.setattr("e2ed2.training.stages.few_step.latent_set", pytest.fail)
    with pytest.raises(UserError, match=f"^objective.plugin.function: {name} {problem}") as error:
        stage_of(config)
    assert "\n" not in str(error.value)


def test_a_function_that_changes_its_shape_later_ends_the_run_in_one_line(functions):
    plugin = PlugIn("my_terms:redness")
    functions().redness.__code__ = functions().column.__code__
    with pytest.raises(UserError, match=r"^objective.plugin.function: my_terms:redness returned \[3, 1\] for 3 images"):
        plugin(torch.zeros(1, 3, 3, 8, 8), ["", "", ""])


def test_a_gradient_of_zero_is_told(recipe):
    said = []
    stage_of(recipe("flat"), said.append)
    assert any("my_terms:flat has a gradient of zero" in line for line in said)


def test_a_dry_run_looks_for_it(recipe):
    check_inputs(recipe())
    with pytest.raises(UserError, match="^objective.plugin.function: my_terms:nothing cannot be imported"):
        check_inputs(recipe("nothing"))


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        ({"weight": 1}, "objective.plugin.function: missing; objective.plugin.weight=1 weighs a function of yours"),
        ({"function": "a:b"}, "objective.plugin.function: a:b, but objective.plugin.weight is missing"),
        ({"function": "a.b", "weight": 1}, r"objective.plugin.function: 'a.b' is not allowed \(give package.module:f"),
        ({"function": "a:b()", "weight": 1}, r"objective.plugin.function: 'a:b\(\)' is not allowed"),
    ],
)
def test_a_recipe_that_names_half_of_it_is_refused(recipe, plugin, message):
    with pytest.raises(UserError, match=message):
        recipe(objective={"plugin": plugin, "l2": {"weight": 1}})


def test_the_functions_of_the_manual_are_rewards(functions, networks, tmp_path):
    """Its aesthetic head and its CLIP score, on a tiny CLIP: against transformers' own call on what they look at."""
    from transformers import AutoTokenizer, CLIPModel

    page = (ROOT / "docs" / "method.md").read_text()
    code = re.search(r"```python\n(# my_rewards.py\n.*?)```", page, re.S)[1]
    code = code.replace("openai/clip-vit-large-patch14", networks["clip"])
    (tmp_path / "my_rewards.py").write_text(code)
    head = {"weight": torch.randn(1, 16, generator=torch.Generator().manual_seed(0)), "bias": torch.tensor([5.0])}
    save_file(head, tmp_path / "head.safetensors")
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    prompts = ["a red cat", "a dog"]
    clip, tokens = CLIPModel.from_pretrained(networks["clip"]), AutoTokenizer.from_pretrained(networks["clip"])
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.48145466, 0.4578275, 0.40821073),
                                                         (0.26862954, 0.26130258, 0.27577711)))  # fmt: skip
    pixels = ((images + 1) / 2 - mean) / std  # as large as the network's own images
    out = clip(**tokens(prompts, padding=True, return_tensors="pt"), pixel_values=pixels)
    cosines = torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)
    scores = out.image_embeds @ head["weight"][0] + 5
    for name, expected in (("clip_score", -cosines), ("aesthetic", -scores)):
        term = PlugIn(f"my_rewards:{name}")
        term.try_out(64, 48, torch.device("cpu"), pytest.fail)
        torch.testing.assert_close(term(images[None], prompts), expected.mean(), rtol=1e-4, atol=1e-5)
    sys.modules.pop("my_rewards")
