"""Each family from a plain diffusers folder through training to a folder that plain diffusers samples identically."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from e2ed2.models.families import FAMILIES
from e2ed2.models.folders.pipeline import load_pipeline
from e2ed2.models.text import encode_prompts, encode_uncond
from e2ed2.sampling.generate import Request, Sampler
from e2ed2.sampling.model import load_model
from e2ed2.system.errors import UserError
from e2ed2.training.latents.training_set import load_training_set
from e2ed2.training.loop import train
from e2ed2.training.stages.create import create_stage
from tests.models.tiny import MAKERS, SCALED_LINEAR, SIDE, TODAY, save_tiny

REQUESTS = [Request("a red cat", 3), Request("dog", 4)]


def quiet(line):
    pass


def asked(pipeline, prompt: str) -> dict:
    """The argument of a pipeline's call that says what to draw."""
    is_dit = type(pipeline).__name__ == "DiTPipeline"
    return {"class_labels": pipeline.get_label_ids([prompt])} if is_dit else {"prompt": prompt}


def in_diffusers(folder: Path) -> torch.Tensor:
    """What plain diffusers draws by the folder's own call, uint8 [N, 3, H, W]."""
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    inference = load_pipeline(folder)[1]
    call = inference.call(FAMILIES[type(pipeline).__name__])
    images = []
    for r in REQUESTS:
        generator = torch.Generator().manual_seed(r.seed)
        images.append(pipeline(**asked(pipeline, r.prompt), generator=generator, output_type="pt", **call).images)
    return (torch.cat(images) * 255).round().to(torch.uint8)


def difference(a: torch.Tensor, b: torch.Tensor) -> int:
    return int((a.int() - b.int()).abs().max())


def weights(folder: Path, class_name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / FAMILIES[class_name].network / "diffusion_pytorch_model.safetensors")


def scheduler(name: str, **options):
    import diffusers

    return getattr(diffusers, name)(**options)


CASES = {
    "PixArt-alpha": ("PixArtAlphaPipeline", {}, {}, "lcm", 2),
    "PixArt-Sigma": ("PixArtSigmaPipeline", {}, {"solver": "ddim", "num_inference_steps": 3}, "ddim", 3),
    "SD 1.5": ("StableDiffusionPipeline", {}, {}, "lcm", 2),
    "SD 1.5 guided in the chain": ("StableDiffusionPipeline", {}, {"guidance_scale": 3.0}, "lcm", 4),
    "SD 2.1, v": (
        "StableDiffusionPipeline",
        {"scheduler": ("DDIMScheduler", {**SCALED_LINEAR, "prediction_type": "v_prediction"})},
        {},
        "lcm",
        2,
    ),
    "LCM": (
        "LatentConsistencyModelPipeline",
        {"scheduler": ("LCMScheduler", SCALED_LINEAR), "time_cond_proj_dim": 16},
        {},
        "lcm",
        2,
    ),
    "SDXL": ("StableDiffusionXLPipeline", {}, {"guidance_scale": 2.0}, "lcm", 4),
    "SDXL-Lightning": (
        "StableDiffusionXLPipeline",
        {"scheduler": ("EulerDiscreteScheduler", {**SCALED_LINEAR, "timestep_spacing": "trailing"})},
        {"num_inference_steps": 3},
        "ddim",
        3,
    ),
    "SDXL-Turbo": (
        "StableDiffusionXLPipeline",
        {"scheduler": ("EulerAncestralDiscreteScheduler", {**SCALED_LINEAR, "timestep_spacing": "trailing"})},
        {"num_inference_steps": 3},
        "ancestral",
        3,
    ),
    "PixArt-Sigma, ancestral": ("PixArtSigmaPipeline", {}, {"solver": "ancestral"}, "ancestral", 2),
    "SD 3": ("StableDiffusion3Pipeline", {}, {"guidance_scale": 1.5}, "euler", 4),
    "FLUX.2 klein": ("Flux2KleinPipeline", {}, {}, "euler", 2),
    "Z-Image": ("ZImagePipeline", {}, {"guidance_scale": 1.5}, "euler", 4),
    "Z-Image-Turbo": ("ZImagePipeline", {}, {}, "euler", 2),
    "FLUX.1 dev": ("FluxPipeline", {"guidance_embeds": True}, {}, "euler", 2),
    "FLUX.1 schnell": ("FluxPipeline", {"use_dynamic_shifting": False}, {}, "euler", 2),
    "FLUX.1 schnell, guided": ("FluxPipeline", {}, {"guidance_scale": 1.5}, "euler", 4),
    "Chroma": ("ChromaPipeline", {}, {"guidance_scale": 1.5}, "euler", 4),
    "Qwen-Image": ("QwenImagePipeline", {}, {"guidance_scale": 1.5}, "euler", 4),
    "Qwen-Image, unguided": ("QwenImagePipeline", {}, {}, "euler", 2),
    "SANA": ("SanaPipeline", {}, {"guidance_scale": 1.5}, "euler", 4),
    "SANA-Sprint": ("SanaSprintPipeline", {}, {}, "scm", 2),
    "SANA-Sprint in four steps": ("SanaSprintPipeline", {}, {"num_inference_steps": 4}, "scm", 4),
    "DiT": ("DiTPipeline", {}, {"guidance_scale": 1.5}, "ddim", 4),
    "FLUX.2 klein base": ("Flux2KleinPipeline", {"is_distilled": False}, {"guidance_scale": 1.5}, "euler", 4),
}


OF_TODAY = ["FLUX.2 klein", "Z-Image", "FLUX.1 dev", "Chroma", "Qwen-Image", "SANA", "SANA-Sprint", "DiT"]


def start_of(case: str, folder: Path) -> Path:
    class_name, options, *_ = CASES[case]
    if "scheduler" in options:
        options = options | {"scheduler": scheduler(options["scheduler"][0], **options["scheduler"][1])}
    return save_tiny(class_name, folder, **options)


@pytest.mark.parametrize("case", CASES)
def test_train_save_and_sample_identically_in_plain_diffusers(case, recipe, tmp_path):
    class_name, _, trajectory, solver, nfe = CASES[case]
    start = start_of(case, tmp_path / "start")
    folder = train(recipe(tmp_path / "run", start, **trajectory), quiet)
    before, after = weights(start, class_name), weights(folder, class_name)
    assert before.keys() == after.keys() and any(not torch.equal(before[k], after[k]) for k in before)
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == class_name
    assert json.loads((folder / "inference.json").read_text())["solver"] == solver
    loaded = load_model(str(folder))
    assert loaded.sampler.nfe == nfe
    ours = loaded.sampler(REQUESTS)
    assert ours.float().std() > 5 and difference(ours[:1], ours[1:]) > 5
    assert difference(ours, in_diffusers(folder)) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("case", ["PixArt-alpha", "PixArt-Sigma", "SD 1.5", "LCM", "SDXL", "SD 3", *OF_TODAY])
def test_an_interrupted_run_ends_with_the_same_weights(case, recipe, tmp_path):
    start, class_name = start_of(case, tmp_path / "start"), CASES[case][0]

    def interrupt(step, steps, row):
        if step == 1:
            raise KeyboardInterrupt

    config = recipe(tmp_path / "interrupted", start, train={"checkpoint_every": 1})
    with pytest.raises(KeyboardInterrupt):
        train(config, quiet, interrupt)
    folders = train(config, quiet), train(recipe(tmp_path / "undisturbed", start), quiet)
    a, b = (weights(folder, class_name) for folder in folders)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_pixart_alpha_at_1024_px_is_told_size_and_aspect_ratio(tmp_path):
    """A picture that is not square, sampled by our chain and by the pipeline."""
    start = save_tiny("PixArtAlphaPipeline", tmp_path / "start", sample_size=128)
    pipeline, inference = load_pipeline(start)
    assert pipeline.transformer.use_additional_conditions and inference.height == 512
    call = {"num_inference_steps": 2, "guidance_scale": 2.0, "height": SIDE, "width": 2 * SIDE}
    pipeline.register_modules(scheduler=scheduler("DDIMScheduler", timestep_spacing="trailing", clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    ours = Sampler(pipeline, type(inference)("ddim", **call))(REQUESTS[:1])
    theirs = pipeline(
        REQUESTS[0].prompt,
        generator=torch.Generator().manual_seed(3),
        use_resolution_binning=False,
        clean_caption=False,
        output_type="pt",
        **call,
    ).images
    assert ours.shape == (1, 3, SIDE, 2 * SIDE)
    assert difference(ours, (theirs * 255).round().to(torch.uint8)) <= 1


@torch.no_grad()
def test_sdxl_is_guided_away_from_zeros_or_from_the_empty_prompt(tmp_path):
    pipeline, _ = load_pipeline(save_tiny("StableDiffusionXLPipeline", tmp_path / "start"))
    for zeros in (True, False):
        pipeline.register_to_config(force_zeros_for_empty_prompt=zeros)
        uncond = encode_uncond(pipeline)
        _, negative, _, pooled = pipeline.encode_prompt("any", device="cpu")
        torch.testing.assert_close(uncond.embeds, negative)
        torch.testing.assert_close(uncond.pooled, pooled)
        assert (uncond.embeds == 0).all() == zeros
    assert encode_prompts([""], pipeline).embeds.any()


def test_an_unknown_pipeline_class_is_named_with_those_we_know(recipe, tmp_path):
    start = save_tiny("StableDiffusionImg2ImgPipeline", tmp_path / "start")
    message = f"a StableDiffusionImg2ImgPipeline cannot be used here; give one of {', '.join(FAMILIES)}"
    with pytest.raises(UserError, match=message):
        load_pipeline(start)
    with pytest.raises(UserError, match=message):
        train(recipe(tmp_path / "run", start), quiet)


def test_a_solver_of_another_kind_of_model_is_refused(recipe, tmp_path):
    flow = save_tiny("StableDiffusion3Pipeline", tmp_path / "flow")
    with pytest.raises(UserError, match="trajectory.solver: lcm, but a StableDiffusion3Pipeline .* needs euler"):
        train(recipe(tmp_path / "a", flow, solver="lcm"), quiet)
    diffusion = save_tiny("StableDiffusionPipeline", tmp_path / "diffusion")
    with pytest.raises(UserError, match="solver: euler, but a StableDiffusionPipeline .* lcm, ddim or ancestral"):
        train(recipe(tmp_path / "b", diffusion, solver="euler"), quiet)


def test_pickles_beside_safetensors_are_left_unread_and_alone_refused(tmp_path):
    """As folders from the hub often are; without safetensors nothing is loaded."""
    start = save_tiny("StableDiffusionPipeline", tmp_path / "start")
    (start / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"not even a pickle")
    load_pipeline(start)
    (start / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match="not a loadable model folder"):
        load_pipeline(start)


def test_every_family_has_a_tiny_copy():
    assert MAKERS.keys() == FAMILIES.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    "class_name",
    ["PixArtSigmaPipeline", "StableDiffusionXLPipeline", *(name for name in TODAY if name != "ChromaPipeline")],
)
@pytest.mark.parametrize("is_mixed", [False, True])
def test_checkpointing_blocks_and_steps_leaves_the_gradient_as_it_is(class_name, is_mixed, recipe, tmp_path):
    start = save_tiny(class_name, tmp_path / "start")
    gradients = []
    for blocks, steps in ((False, False), (True, False), (False, True), (True, True), ("selective", False)):
        config = recipe(tmp_path, start, {"gradient_checkpointing": blocks}, gradient_checkpointing=steps)
        stage = create_stage(config, load_training_set(config.data, quiet), torch.device("cpu"), quiet)
        network = stage.network.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            loss = stage.loss_terms(network, network, torch.arange(2), torch.Generator().manual_seed(0))["l2"]
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert gradients[0].norm() > 0
    for other in gradients[1:]:
        if is_mixed:  # another kernel for attention
            assert (other - gradients[0]).norm() < 0.05 * gradients[0].norm()
        else:
            torch.testing.assert_close(other, gradients[0])


def test_blocks_of_chroma_are_not_recomputed(recipe, tmp_path):
    """diffusers leaves the mask out of them: the gradient would be another."""
    config = recipe(tmp_path, save_tiny("ChromaPipeline", tmp_path / "start"), {"gradient_checkpointing": True})
    with pytest.raises(UserError, match="a ChromaPipeline then computes something else; set it false"):
        create_stage(config, load_training_set(config.data, quiet), torch.device("cpu"), quiet)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: x for file in folder.glob("*.safetensors") for name, x in load_file(file).items()}


@pytest.mark.slow
@pytest.mark.parametrize("class_name", ["PixArtSigmaPipeline", "StableDiffusionXLPipeline", *TODAY[:-1]])
@pytest.mark.parametrize("is_sharded", [False, True])
def test_text_encoders_leave_as_they_came(class_name, is_sharded, recipe, tmp_path):
    """In half precision, of a variant, in shards: what plain diffusers loads is theirs to the bit."""
    from diffusers import DiffusionPipeline

    plain = save_tiny(class_name, tmp_path / "plain")
    size = {"max_shard_size": "4KB"} if is_sharded else {}
    start = tmp_path / "start"
    DiffusionPipeline.from_pretrained(plain, dtype=torch.float16).save_pretrained(start, variant="fp16", **size)
    indexed = list(start.glob("text_encoder*/*index*"))
    assert bool(indexed) == is_sharded
    folder = train(recipe(tmp_path / "run", start, model={"variant": "fp16"}), quiet)
    before = DiffusionPipeline.from_pretrained(start, variant="fp16", dtype=torch.float16)
    after = DiffusionPipeline.from_pretrained(folder, dtype=torch.float16)
    for name in [name for name in before.components if name.startswith("text_encoder")]:
        theirs, ours = before.components[name].state_dict(), after.components[name].state_dict()
        assert theirs.keys() == ours.keys() and all(torch.equal(theirs[key], ours[key]) for key in theirs)
        old, new = (stored(at / name) for at in (start, folder))
        assert all(new[key].dtype == x.dtype for key, x in old.items()), "not doubled in size"


def test_other_weights_may_replace_the_network_s(recipe, tmp_path):
    """SDXL-Lightning's way: a file of the UNet alone, for a pipeline that has the rest."""
    torch.manual_seed(5)
    start, other = (save_tiny("StableDiffusionXLPipeline", tmp_path / name) for name in ("start", "other"))
    file = other / "unet" / "diffusion_pytorch_model.safetensors"
    changed = {name: x + 0.25 for name, x in load_file(file).items()}
    save_file(changed, file)
    slow = {"lr": 1e-12}
    folder = train(recipe(tmp_path / "run", start, model={"network": str(file)}, train=slow, solver="ddim"), quiet)
    after = weights(folder, "StableDiffusionXLPipeline")
    assert all(torch.allclose(after[name], x, atol=1e-6) for name, x in changed.items())
    del changed["conv_in.bias"]
    save_file(changed, file)
    with pytest.raises(UserError, match="network .*: no weights of this UNet2DConditionModel"):
        train(recipe(tmp_path / "again", start, model={"network": str(file)}), quiet)


def test_another_kind_of_autoencoder_is_refused(recipe, tmp_path):
    from diffusers import AutoencoderTiny, DiffusionPipeline

    start = save_tiny("StableDiffusionPipeline", tmp_path / "start")
    small = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    tiny = AutoencoderTiny(**small, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))
    DiffusionPipeline.from_pretrained(start, vae=tiny).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="model.path: the vae of .*other is AutoencoderTiny; give a pipeline"):
        train(recipe(tmp_path / "run", tmp_path / "other"), quiet)


@pytest.mark.parametrize(
    ("case", "trajectory", "message"),
    [
        ("FLUX.2 klein", {"guidance_scale": 2.0}, "trajectory.guidance_scale: 2, but the model is distilled, .*: set"),
        ("SD 1.5", {"shift": 3.0}, "trajectory.shift: 3, but a StableDiffusionPipeline is no flow model; leave it out"),
        ("DiT", {"solver": "lcm"}, "trajectory.solver: lcm, but the call of a DiTPipeline gives its noise no seed"),
        ("DiT", {"timesteps": [[999, 200]]}, "timesteps: a grid of 2 steps, but the call of a DiT.* takes none at all"),
        (
            "SANA-Sprint in four steps",
            {"num_inference_steps": 3, "time_grid": "learned"},
            "trajectory.time_grid: a grid of 3 steps, but the call of a SanaSprint.* takes none of more than 2; leave",
        ),
        ("SANA-Sprint", {"solver": "lcm"}, "trajectory.solver: lcm, but a SanaSprintPipeline .* needs scm"),
    ],
)
def test_what_a_pipeline_s_call_cannot_do_is_not_trained(case, trajectory, message, recipe, tmp_path):
    with pytest.raises(UserError, match=message):
        train(recipe(tmp_path / "run", start_of(case, tmp_path / "start"), **trajectory), quiet)


def test_a_caption_that_is_no_class_is_named(tmp_path):
    pipeline, _ = load_pipeline(start_of("DiT", tmp_path / "start"))
    with pytest.raises(UserError, match="caption 'a zebra': no class of this DiTPipeline; give one of its 24 classes"):
        encode_prompts(["a dog", "a zebra"], pipeline)


def test_a_model_may_be_trained_beside_its_own_size(recipe, tmp_path):
    start = save_tiny("StableDiffusionPipeline", tmp_path / "start")
    config = recipe(tmp_path / "run", start)
    smaller = config.model_copy(update={"data": config.data.model_copy(update={"size": SIDE // 2})})
    folder = train(smaller, quiet)
    assert json.loads((folder / "inference.json").read_text())["height"] == SIDE // 2
    assert difference(load_model(str(folder)).sampler(REQUESTS), in_diffusers(folder)) <= 1
    for size in (SIDE // 2 - 1, 4 * SIDE):
        other = recipe(tmp_path / f"of {size}", start)
        with pytest.raises(UserError, match=f"data.size: {size}, but the model makes {SIDE} px images: set it to"):
            train(other.model_copy(update={"data": other.data.model_copy(update={"size": size})}), quiet)
