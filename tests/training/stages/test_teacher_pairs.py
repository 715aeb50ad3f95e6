"""Teacher pairs: the teacher's own sample of the very noise, kept on disk, in the place of the data."""

from dataclasses import replace

import pytest
import torch

from e2ed2.models.autoencoder import decode
from e2ed2.models.folders.pipeline import load_pipeline, save_pipeline
from e2ed2.models.scheduler import noise_scheduler
from e2ed2.models.text import encode_prompts
from e2ed2.recipe.load import build_config
from e2ed2.system.errors import UserError
from e2ed2.training.latents.lazy import MemoryLatents
from e2ed2.training.stages import teacher_pairs
from e2ed2.training.stages.create import create_stage

ROWS = torch.arange(3, 9)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "teacher-pairs"


@pytest.fixture
def teacher(tiny_model, tmp_path):
    """The tiny model with other weights as a guided DDIM model of 5 steps."""
    pipeline, inference = load_pipeline(tiny_model)
    with torch.no_grad():
        for parameter in pipeline.transformer.parameters():
            parameter.mul_(1.1)
    pipeline.register_modules(scheduler=noise_scheduler("ddim", "v_prediction"))
    folder = tmp_path / "teacher"
    save_pipeline(pipeline, replace(inference, solver="ddim", num_inference_steps=5, guidance_scale=2.0), folder)
    return folder


def make(path, data, teacher, say=lambda line: None, sections=None, **objective):
    torch.manual_seed(0)
    trajectory = {"start": "pure_noise", "coupling": "teacher_pairs", "teacher": str(teacher)}
    objective = objective or {"l2": {"weight": 1}}
    values = {"stage": "e2ed2", "run": {"dir": "unused"}, "model": {"path": str(path)}, "trajectory": trajectory}
    config = build_config({**values, "objective": objective, **(sections or {})})
    return create_stage(config, data, torch.device("cpu"), say)


def ddim_sample(folder, prompt, noise):
    """One guided sample by diffusers' own scheduler and a loop written out."""
    pipeline, inference = load_pipeline(folder)
    pipeline.scheduler.set_timesteps(5)
    cond, uncond = (encode_prompts([p], pipeline) for p in (prompt, ""))
    x = noise[None]
    for t in pipeline.scheduler.timesteps:
        with_caption, without = (
            pipeline.transformer(
                x,
                encoder_hidden_states=c.embeds,
                encoder_attention_mask=c.mask,
                timestep=t.expand(1),
                added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            ).sample
            for c in (cond, uncond)
        )
        x = pipeline.scheduler.step(without + 2.0 * (with_caption - without), t, x).prev_sample
    return x[0]


@torch.no_grad()
def test_the_target_is_the_teacher_s_sample_of_the_start_noise(tiny_model, tiny_emoji, teacher):
    stage = make(tiny_model, tiny_emoji, teacher, l2={"weight": 1}, num_samples=2)
    given = []

    def chain(noises, cond, **options):
        given.append((noises, cond))
        return torch.zeros_like(noises[0])

    batch = stage.data.batch(ROWS, generator())
    source = generator()
    stage._samples(chain, batch, *stage._draw_start(source), source)
    noises, cond = given[0]
    first, second = noises.unflatten(1, (2, -1)).unbind(1)
    assert torch.equal(first[0], second[0]) and not torch.equal(first[1], second[1])
    expected = [ddim_sample(teacher, tiny_emoji.captions[r], first[0, i]) for i, r in enumerate(ROWS.tolist())]
    torch.testing.assert_close(batch.x0, torch.stack(expected), rtol=1e-4, atol=1e-4)
    assert (cond.mask.sum(1) > 4).all()  # the style is named in each: `apple` alone has 3 tokens


def test_a_sampler_that_is_the_teacher_has_no_loss(tiny_model, tiny_emoji, teacher, monkeypatch):
    """On latents and on images, which are the decoded targets."""
    stage = make(tiny_model, tiny_emoji, teacher, l2={"weight": 1}, lpips={"weight": 1})
    x0 = stage.data.latents[ROWS]
    monkeypatch.setattr(stage, "_samples", lambda *args: x0[None, None])
    values = stage.loss_terms(stage.network, stage.network, ROWS, generator())
    assert values["l2"].item() == 0 and values["lpips"].item() == pytest.approx(0, abs=1e-6)
    pictures = stage._pictures(stage.data.batch(ROWS, generator()), None)
    torch.testing.assert_close(pictures, decode(stage._pipeline.vae, x0).detach())


def test_every_item_has_a_noise_of_its_own_whatever_the_batch():
    noise = teacher_pairs.pair_noise(torch.arange(2000), (2, 3))
    assert noise.mean().item() == pytest.approx(0, abs=0.03) and noise.std().item() == pytest.approx(1, abs=0.03)
    assert len({tuple(row) for row in noise.flatten(1).tolist()}) == 2000
    assert torch.equal(teacher_pairs.pair_noise(torch.tensor([7, 3]), (2, 3)), noise[[7, 3]])


def test_a_resumed_run_reads_the_same_pairs(tiny_model, tiny_emoji, teacher, cache, monkeypatch):
    monkeypatch.setattr(teacher_pairs, "ROWS_PER_FILE", 20)
    lines = []
    first = make(tiny_model, tiny_emoji, teacher, lines.append).data.latents
    files = sorted(cache.rglob("*.safetensors"))
    assert [file.stem for file in files] == ["00000000", "00000020", "00000040"]
    assert any("teacher pairs: 48 samples" in line and "10 network evaluations each" in line for line in lines)
    times = [file.stat().st_mtime_ns for file in files]
    with monkeypatch.context() as patch:
        patch.setattr(teacher_pairs, "unroll", None)
        assert torch.equal(make(tiny_model, tiny_emoji, teacher).data.latents, first)
    assert [file.stat().st_mtime_ns for file in files] == times


def test_an_interrupted_making_goes_on_where_it_was(tiny_model, tiny_emoji, teacher, cache, monkeypatch):
    monkeypatch.setattr(teacher_pairs, "ROWS_PER_FILE", 20)
    real, calls = teacher_pairs.unroll, []

    def interrupted(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(teacher_pairs, "unroll", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(tiny_model, tiny_emoji, teacher)
    assert len(list(cache.rglob("*.safetensors"))) == 1
    made = make(tiny_model, tiny_emoji, teacher).data.latents
    assert len(calls) == 4  # the first file was kept
    next(cache.rglob("00000020.safetensors")).write_bytes(b"damaged")
    assert torch.equal(make(tiny_model, tiny_emoji, teacher).data.latents, made) and len(calls) == 5


def test_other_captions_and_another_teacher_have_pairs_of_their_own(tiny_model, tiny_emoji, teacher, cache):
    make(tiny_model, tiny_emoji, teacher)
    make(tiny_model, replace(tiny_emoji, captions=tiny_emoji.captions[::-1]), teacher)
    pipeline, inference = load_pipeline(teacher)
    save_pipeline(pipeline, replace(inference, num_inference_steps=2), teacher)
    make(tiny_model, tiny_emoji, teacher)
    assert len(list(cache.iterdir())) == 3


def test_progress_is_told(tiny_model, tiny_emoji, teacher, monkeypatch):
    monkeypatch.setattr(teacher_pairs, "ROWS_PER_FILE", 20)
    monkeypatch.setattr(teacher_pairs, "SECONDS_PER_LINE", 0)
    lines = []
    make(tiny_model, tiny_emoji, teacher, lines.append)
    assert lines[-3:] == [f"teacher pairs: {done} of 48" for done in (20, 40, 48)]


def broken(folder, problem):
    pipeline, inference = load_pipeline(folder)
    if problem in ("lcm", "ancestral"):
        inference = replace(inference, solver=problem)
    if problem == "size":
        inference = replace(inference, height=128)
    if problem == "schedule":
        scheduler = type(pipeline.scheduler)(beta_start=1e-3, prediction_type="v_prediction")
        pipeline.register_modules(scheduler=scheduler)
    if problem == "autoencoder":
        torch.nn.init.normal_(pipeline.vae.decoder.conv_in.weight)
    later = [pipeline.transformer] * (inference.num_inference_steps - 1) if problem == "networks" else []
    save_pipeline(pipeline, inference, folder, later)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("lcm", "samples with lcm, but a pair needs ddim"),
        ("ancestral", "samples with ancestral, but a pair needs ddim"),
        ("networks", "has a network for each of its steps; give one with a single one"),
        ("size", "makes latents 4x32x16 .128x64 px., but with data.size=64 they are 4x16x16; give a teacher"),
        ("schedule", "has another noise schedule"),
        ("autoencoder", "has another autoencoder"),
    ],
)
def test_a_teacher_of_another_kind_is_refused_before_images_are_encoded(
    tiny_model, tiny_emoji, teacher, cache, monkeypatch, problem, message
):
    broken(teacher, problem)
    monkeypatch.setattr(MemoryLatents, "__init__", pytest.fail)
    with pytest.raises(UserError, match=f"trajectory.teacher: .*teacher {message}"):
        make(tiny_model, tiny_emoji, teacher)
    assert not cache.exists()


def test_a_teacher_makes_images_of_the_size_in_use(tiny_model, tiny_emoji, teacher):
    """Not of the size that the networks were made with: the same student, on larger images."""
    pictures, captions, names = tiny_emoji.images[:4], tiny_emoji.captions[:4], tiny_emoji.names[:4]
    pictures = pictures.repeat_interleave(2, 2).repeat_interleave(2, 3)
    large = replace(tiny_emoji, images=pictures, captions=captions, names=names)
    sections = {"data": {"source": "folder", "path": "unused", "size": 128}}
    with pytest.raises(UserError, match="trajectory.teacher: .* 4x16x16 .64x64 px., but .*128 they are 4x32x32"):
        make(tiny_model, large, teacher, sections=sections)
    pipeline, inference = load_pipeline(teacher)
    save_pipeline(pipeline, replace(inference, height=128, width=128), teacher)
    stage = make(tiny_model, large, teacher, sections=sections)
    assert stage.data.latents.shape == (4, 4, 32, 32) and stage.inference.height == 128


def test_a_missing_teacher_is_named_before_images_are_encoded(tiny_model, tiny_emoji, monkeypatch):
    monkeypatch.setattr(MemoryLatents, "__init__", pytest.fail)
    with pytest.raises(UserError, match="trajectory.teacher: model 'nowhere': no such folder"):
        make(tiny_model, tiny_emoji, "nowhere")


@pytest.mark.parametrize(
    ("trajectory", "reason"), [({"solver": "ddim"}, "solver ddim"), ({"num_inference_steps": 1}, "one step")]
)
def test_scoring_rules_are_refused_where_the_samples_of_a_pair_are_identical(
    tiny_model, tiny_emoji, teacher, trajectory, reason
):
    pairs = {"start": "pure_noise", "coupling": "teacher_pairs", "teacher": str(teacher), **trajectory}
    message = rf"objective.num_samples: 2, but with .*teacher_pairs .* \({reason}\), .* energy cannot keep them apart"
    with pytest.raises(UserError, match=message):
        make(tiny_model, tiny_emoji, teacher, sections={"trajectory": pairs}, energy={"weight": 1}, num_samples=2)
