"""Adapters: trained alone, exported on their own and merged, fused into a start, and small in memory and on disk."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from e2ed2.models.families import FAMILIES, network_of
from e2ed2.models.folders.pipeline import load_pipeline
from e2ed2.models.lora.fuse import fuse
from e2ed2.system.errors import UserError
from e2ed2.training.loop import train
from tests.models.test_families import asked
from tests.models.tiny import TODAY, save_tiny

PROMPT = "a red cat"
BEFORE = ["PixArtSigmaPipeline", "StableDiffusionPipeline", "StableDiffusionXLPipeline"]


def quiet(line):
    pass


def sample(pipeline, inference) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    call = inference.call(FAMILIES[type(pipeline).__name__])
    generator = torch.Generator().manual_seed(0)
    return pipeline(**asked(pipeline, PROMPT), generator=generator, output_type="pt", **call).images


@pytest.mark.slow
@pytest.mark.parametrize("class_name", [*BEFORE, *TODAY])
def test_start_and_adapter_in_plain_diffusers_sample_as_the_merged_model(class_name, recipe, tmp_path):
    from diffusers import DiffusionPipeline
    from peft import PeftModel

    start = save_tiny(class_name, tmp_path / "start")
    fast = {"lr": 0.1, "ema_decay": 0.0}
    folder = train(recipe(tmp_path / "run", start, train=fast, parameters="lora", lora_rank=2), quiet)
    inference = load_pipeline(folder)[1]
    whole = DiffusionPipeline.from_pretrained(folder)
    separate = DiffusionPipeline.from_pretrained(start, scheduler=whole.scheduler)
    plain = sample(separate, inference)
    if hasattr(separate, "load_lora_weights"):
        assert (folder / "lora" / "pytorch_lora_weights.safetensors").is_file()
        separate.load_lora_weights(folder / "lora")
    else:
        PeftModel.from_pretrained(separate.transformer, folder / "lora")
    expected = sample(whole, inference)
    assert (plain - expected).abs().max() > 0.01
    torch.testing.assert_close(sample(separate, inference), expected, rtol=0, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("class_name", TODAY)
def test_an_adapter_learns_on_a_network_that_is_frozen_in_bf16(class_name, recipe, tmp_path):
    start = save_tiny(class_name, tmp_path / "start")
    half = {"lr": 0.1, "ema_decay": 0.0, "mixed_precision": "bf16"}
    folder = train(recipe(tmp_path / "run", start, train=half, parameters="lora", lora_rank=2), quiet)
    before, after = (load_file(at / "transformer" / "diffusion_pytorch_model.safetensors") for at in (start, folder))
    assert all(after[name].dtype == x.dtype for name, x in before.items())
    assert any(not torch.equal(after[name], x) for name, x in before.items())
    assert all(x.isfinite().all() for x in after.values())


def test_pixart_starts_from_its_own_exported_adapter(recipe, tmp_path):
    start = save_tiny("PixArtSigmaPipeline", tmp_path / "start")
    fast = {"lr": 0.1, "ema_decay": 0.0}
    folder = train(recipe(tmp_path / "lora", start, train=fast, parameters="lora", lora_rank=2), quiet)
    pipeline, _ = load_pipeline(start)
    fuse(pipeline, [str(folder / "lora")])
    expected = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    fused = pipeline.transformer.state_dict()
    assert fused.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(fused[name], value, rtol=1e-5, atol=1e-6)


def test_an_adapter_of_the_asked_layers_alone_comes_off_again(recipe, tmp_path):
    from diffusers import DiffusionPipeline

    start = save_tiny("StableDiffusionPipeline", tmp_path / "start")
    fast = {"lr": 0.1, "ema_decay": 0.0}
    asked = {"parameters": "lora_per_step", "lora_rank": 2, "lora_targets": ["to_v"]}
    folder = train(recipe(tmp_path / "run", start, train=fast, **asked), quiet)
    for name in ("lora", "lora_2"):  # one a step
        assert all("to_v" in key for key in load_file(folder / name / "pytorch_lora_weights.safetensors"))
    pipeline = DiffusionPipeline.from_pretrained(start)
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    pipeline.load_lora_weights(folder / "lora_2")
    pipeline.fuse_lora()
    merged = load_file(folder / "unet_2" / "diffusion_pytorch_model.safetensors")
    fused = {name.replace(".base_layer", ""): value for name, value in pipeline.unet.state_dict().items()}
    assert all(torch.allclose(fused[name], value, atol=1e-5) for name, value in merged.items())
    assert any(not torch.allclose(fused[name], value, atol=1e-3) for name, value in before.items())
    pipeline.unfuse_lora()
    pipeline.unload_lora_weights()
    after = pipeline.unet.state_dict()
    assert all(torch.allclose(after[name], value, atol=1e-5) for name, value in before.items())


def test_an_adapter_in_kohya_s_names_is_read_by_diffusers_and_named_as_comfyui_looks_for_it(recipe, tmp_path):
    """ComfyUI (comfy/lora.py) takes `lora_unet_` and diffusers' name of a layer with `_` for every dot."""
    start = save_tiny("StableDiffusionXLPipeline", tmp_path / "start")
    fast = {"lr": 0.1, "ema_decay": 0.0}
    asked = {"parameters": "lora", "lora_rank": 2, "lora_names": "kohya"}
    folder = train(recipe(tmp_path / "run", start, train=fast, **asked), quiet)
    adapter = load_file(folder / "lora" / "pytorch_lora_weights.safetensors")
    pipeline, _ = load_pipeline(start)
    layers = {f"lora_unet_{name.replace('.', '_')}" for name, _ in pipeline.unet.named_modules() if name}
    parts = [name.split(".", 1) for name in adapter]
    assert {layer for layer, _ in parts} <= layers
    assert {part for _, part in parts} == {"lora_down.weight", "lora_up.weight", "alpha"}
    fuse(pipeline, [str(folder / "lora")])
    expected = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    for name, value in pipeline.unet.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_fused_start_is_the_merged_model_and_is_exported_whole(recipe, tmp_path):
    """LCM-LoRA's way: adapter and start, one network, trained on in full."""
    start = save_tiny("StableDiffusionXLPipeline", tmp_path / "start")
    merged = train(recipe(tmp_path / "lora", start, parameters="lora", lora_rank=2), quiet)
    expected = load_file(merged / "unet" / "diffusion_pytorch_model.safetensors")
    for adapter in (merged / "lora", merged / "lora" / "pytorch_lora_weights.safetensors"):
        pipeline, _ = load_pipeline(start)
        fuse(pipeline, [str(adapter)])
        fused = pipeline.unet.state_dict()
        assert fused.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(fused[name], value, rtol=1e-5, atol=1e-6)
    config = recipe(tmp_path / "on", start, model={"lora": [str(merged / "lora")]}, train={"lr": 1e-12})
    trained_on = load_file(train(config, quiet) / "unet" / "diffusion_pytorch_model.safetensors")
    for name, value in expected.items():
        torch.testing.assert_close(trained_on[name], value, rtol=1e-4, atol=1e-6)


def test_an_adapter_that_does_not_exist_or_fit_is_named(recipe, tmp_path):
    start = save_tiny("StableDiffusionPipeline", tmp_path / "start")
    with pytest.raises(UserError, match="model.lora: nowhere: no such file or folder; give one, or a hub id"):
        fuse(load_pipeline(start)[0], ["nowhere"])
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="model.lora: .*empty cannot be added to model.path"):
        fuse(load_pipeline(start)[0], [str(empty)])
    with pytest.raises(UserError, match="model.lora: .*empty cannot .*; a PixArtSigmaPipeline takes peft folders"):
        fuse(load_pipeline(save_tiny("PixArtSigmaPipeline", tmp_path / "pixart"))[0], [str(empty)])
    with pytest.raises(UserError, match=r"trajectory.lora_targets: .*to_nowhere.*; the default is \['to_q'"):
        train(recipe(tmp_path / "run", start, parameters="lora", lora_targets=["to_nowhere"]), quiet)


@pytest.mark.slow
def test_checkpoints_hold_adapters_alone_and_a_resumed_run_ends_the_same(recipe, tmp_path):
    start = save_tiny("StableDiffusionXLPipeline", tmp_path / "start")
    lora = {"parameters": "lora", "lora_rank": 2}

    def interrupt(step, steps, row):
        if step == 1:
            raise KeyboardInterrupt

    config = recipe(tmp_path / "interrupted", start, train={"checkpoint_every": 1}, **lora)
    with pytest.raises(KeyboardInterrupt):
        train(config, quiet, interrupt)
    folders = train(config, quiet), train(recipe(tmp_path / "undisturbed", start, **lora), quiet)
    a, b = (load_file(folder / "lora" / "pytorch_lora_weights.safetensors") for folder in folders)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    for file in ("model", "ema"):
        saved = load_file(tmp_path / "interrupted" / "checkpoints" / "step-2" / f"{file}.safetensors")
        learned = [name for name in saved if name not in ("n_averaged", "module.n_averaged")]
        assert learned and all("lora" in name for name in learned)


def test_the_running_average_shares_what_is_frozen(recipe, tmp_path):
    from e2ed2.training.latents.training_set import load_training_set
    from e2ed2.training.stages.create import create_stage

    start = save_tiny("StableDiffusionPipeline", tmp_path / "start")
    config = recipe(tmp_path / "run", start, parameters="lora", lora_rank=2)
    stage = create_stage(config, load_training_set(config.data, quiet), torch.device("cpu"), quiet)
    average = copy.deepcopy(stage.network)
    pairs = list(zip(stage.network.parameters(), average.parameters(), strict=True))
    assert all((p is q) == (not p.requires_grad) for p, q in pairs)
    base = sum(p.numel() for p in network_of(load_pipeline(start)[0]).parameters())
    both = {id(p): p.numel() for pair in pairs for p in pair}
    learned = sum(p.numel() for p in stage.network.parameters() if p.requires_grad)
    assert sum(both.values()) == base + 2 * learned


def test_in_bf16_what_is_frozen_is_bf16_and_the_merged_model_keeps_the_start_s_precision(recipe, tmp_path):
    from e2ed2.training.latents.training_set import load_training_set
    from e2ed2.training.stages.create import create_stage

    start = save_tiny("PixArtSigmaPipeline", tmp_path / "start")
    config = recipe(tmp_path / "run", start, parameters="lora", lora_rank=2, train={"mixed_precision": "bf16"})
    stage = create_stage(config, load_training_set(config.data, quiet), torch.device("cpu"), quiet)
    dtypes = {p.requires_grad: p.dtype for p in stage.network.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    assert {p.dtype for p in stage._pipeline.vae.parameters()} == {torch.bfloat16}
    assert stage._pipeline.text_encoder is None and stage.data.uncond.embeds.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        loss = stage.loss_terms(stage.network, stage.network, torch.arange(2), torch.Generator().manual_seed(0))["l2"]
    loss.backward()
    assert loss.isfinite() and len(stage.preview(stage.network).captions) == 4
    stage.export(stage.network, tmp_path / "model")
    before, after = (
        load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
        for folder in (start, tmp_path / "model")
    )
    assert all(torch.equal(before[name], after[name]) for name in before)  # an adapter begins as nothing
    encoder = load_file(tmp_path / "model" / "text_encoder" / "model.safetensors")
    assert {x.dtype for x in encoder.values()} == {torch.float32}
