"""What each stage of the chain asks of its network, on a tiny model and a tiny emoji set."""

import copy
import sys
from dataclasses import replace

import pytest
import torch

from e2ed2.models import few_step_network
from e2ed2.models.autoencoder import decode
from e2ed2.models.denoiser import denoiser_of
from e2ed2.models.folders.pipeline import load_autoencoder, load_pipeline, save_pipeline
from e2ed2.recipe.load import build_config
from e2ed2.system.errors import UserError
from e2ed2.training.latents.training_set import load_training_set
from e2ed2.training.stages import end_to_end, few_step
from e2ed2.training.stages.create import create_stage

ROWS = torch.arange(6)
ARCHITECTURES = {
    "autoencoder": {
        "block_out_channels": [8, 8, 8],
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "norm_num_groups": 4,
    }
}


def make(stage: str, path: object = None, **sections: object):
    torch.manual_seed(0)
    model = {"path": path and str(path), "architecture": ARCHITECTURES.get(stage)}
    config = build_config({"stage": stage, "run": {"dir": "unused"}, "model": model, **sections})
    return create_stage(config, load_training_set(config.data, print), torch.device("cpu"), lambda line: None)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def end_to_end_stage(path, start="random_step", **objective):
    objective = objective or {"patch_energy": {"weight": 1}, "num_samples": 2}
    return make("e2ed2", path, objective=objective, trajectory={"start": start})


@pytest.fixture
def watched(monkeypatch):
    """What the end-to-end stage hands to `unroll`, one entry per call."""
    calls = []
    real = few_step_network.unroll

    def spy(denoise, x, timesteps, cond, **options):
        calls.append({"x": x, "timesteps": timesteps, "cond": cond, **options})
        return real(denoise, x, timesteps, cond, **options)

    monkeypatch.setattr(few_step_network, "unroll", spy)
    return calls


def test_a_random_start_is_noise_first_and_shared_x_t_later(tiny_model, tiny_emoji, watched):
    """Algorithm 1: uniform over the sampler's steps; samples of a caption share x_t; no x0 leaks at the first step."""
    stage = end_to_end_stage(tiny_model)
    x0 = stage.data.latents[ROWS]
    seen = set()
    for seed in range(24):
        stage.loss_terms(stage.network, stage.network, ROWS, generator(seed))
        call = watched[-1]
        start = 4 - len(call["timesteps"])
        seen.add(start)
        assert call["timesteps"].tolist() == [999, 759, 499, 259][start:]
        first, second = call["x"].unflatten(0, (2, 6))
        correlation = torch.corrcoef(torch.stack([(first + second).flatten(), x0.flatten()]))[0, 1]
        assert torch.equal(first, second) == (start > 0)
        assert (correlation > 0.05) == (start > 1)  # x_759 holds 0.06 of the data, x_999 none
        if start < 3:
            assert not torch.equal(*call["noises"][0].unflatten(0, (2, 6)))  # samples go apart after the start
    assert seen == {0, 1, 2, 3}


def solver_stage(path, solver, data=None, **trajectory):
    objective = {"energy": {"weight": 1}, "l2": {"weight": 1}, "num_samples": 2}
    return make("e2ed2", path, objective=objective, trajectory={"solver": solver, **trajectory}, data=data or {})


def test_scoring_rules_without_noise_are_refused_at_a_random_start(tiny_model, tiny_emoji, monkeypatch):
    """DDIM's samples of a shared x_t would be identical; of noise they are not, nor at a sampler's only step."""
    noise = solver_stage(tiny_model, "ddim", start="pure_noise")
    batch = noise.data.batch(ROWS, generator())
    assert not torch.equal(*noise._samples(noise.network, batch, 4, 0, generator())[-1])
    assert torch.equal(*noise._samples(noise.network, batch, 4, 1, generator())[-1])
    for solver in ("lcm", "ancestral"):
        noisy = solver_stage(tiny_model, solver)
        assert not torch.equal(*noisy._samples(noisy.network, batch, 4, 1, generator())[-1])
    solver_stage(tiny_model, "ddim", num_inference_steps=1)
    solver_stage(tiny_model, "ddim", {"images_per_caption": 2, "plain_caption_fraction": 0.5})
    monkeypatch.setattr(few_step, "latent_set", pytest.fail)  # refused before anything is encoded
    message = "trajectory.start: random_step, but trajectory.solver=ddim draws no noise: .* objective.num_samples=2 .*"
    with pytest.raises(UserError, match=message + " energy cannot keep them apart; set trajectory.start=pure_noise$"):
        solver_stage(tiny_model, "ddim")


@pytest.mark.parametrize("place", [None, (2, 3, 5)])
def test_what_is_kept_in_float32_is_decoded_in_float32(tiny_model, tiny_emoji, place):
    """In an fp16 run no autocast reaches the autoencoder; in bf16 it is in bf16 itself, and autocast stays."""
    terms = {"objective": {"lpips": {"weight": 1}, "latent_lpips": {"weight": 1}}}
    latents = torch.randn(2, 3, 4, 16, 16, generator=generator())

    def results(stage):
        maps, x0_maps = stage._decoder_maps(latents, latents[0])
        return [stage._decode(latents, place), *maps[0], *maps[1], *x0_maps]

    stage = make("e2ed2", tiny_model, **terms, train={"mixed_precision": "fp16"})
    exact = results(stage)
    with torch.autocast("cpu", torch.float16):
        inside = results(stage)
    assert all(torch.equal(a, b) for a, b in zip(exact, inside, strict=True))
    stage = make("e2ed2", tiny_model, **terms, train={"mixed_precision": "bf16"})
    vae, modes = stage._pipeline.vae, []
    vae.decoder.conv_in.register_forward_pre_hook(lambda *call: modes.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", torch.bfloat16):
        results(stage)
    assert vae.dtype == torch.bfloat16 and set(modes) == {True}


def test_pure_noise_always_starts_at_the_first_step(tiny_model, tiny_emoji, watched):
    stage = end_to_end_stage(tiny_model, start="pure_noise")
    for seed in range(8):
        stage.loss_terms(stage.network, stage.network, ROWS, generator(seed))
    assert {len(call["timesteps"]) for call in watched} == {4}


def test_a_random_number_of_steps_draws_every_sampler_s_own_grid(tiny_model, tiny_emoji, watched):
    trajectory = {"start": "pure_noise", "random_num_steps": True}
    stage = make("e2ed2", tiny_model, objective={"l2": {"weight": 1}}, trajectory=trajectory)
    for seed in range(24):
        stage.loss_terms(stage.network, stage.network, ROWS, generator(seed))
    grids = {tuple(call["timesteps"].tolist()) for call in watched}
    assert grids == {(999,), (999, 499), (999, 679, 339), (999, 759, 499, 259)}


@pytest.mark.parametrize(
    ("trajectory", "seen"),
    [
        ({"num_inference_steps": 2}, {(2, 0), (2, 1)}),
        ({"num_inference_steps": 2, "random_num_steps": True, "start": "pure_noise"}, {(1, 0), (2, 0)}),
        ({"num_inference_steps": 2, "start": "pure_noise"}, {None}),
        ({"num_inference_steps": 1}, {None}),
    ],
)
def test_a_stage_says_where_a_chain_began_where_chains_differ(tiny_model, tiny_emoji, watched, trajectory, seen):
    stage = make("e2ed2", tiny_model, objective={"l2": {"weight": 1}}, trajectory=trajectory)
    told = set()
    for seed in range(12):
        stage.loss_terms(stage.network, stage.network, ROWS, generator(seed))
        told.add(stage.began_at)
        steps, start = stage.began_at or (len(watched[-1]["timesteps"]), 0)
        assert len(watched[-1]["timesteps"]) == steps - start
    assert told == seen


def test_numbers_of_steps_are_drawn_by_their_weights(tiny_model, tiny_emoji):
    trajectory = {"start": "pure_noise", "random_num_steps": True, "num_steps_weights": [6, 0, 2, 0]}
    stage = make("e2ed2", tiny_model, objective={"l2": {"weight": 1}}, trajectory=trajectory)
    drawn = torch.tensor([stage._draw_start(generator(seed))[0] for seed in range(2000)])
    assert set(drawn.tolist()) == {1, 3}
    assert 0.72 < (drawn == 1).float().mean() < 0.78  # 0.75, deviation 0.01


def test_grids_of_the_recipe_are_run_and_exported_and_the_rest_stay_the_solver_s(
    tiny_model, tiny_emoji, watched, tmp_path
):
    """Those of the start give way, too."""
    pipeline, inference = load_pipeline(tiny_model)
    save_pipeline(pipeline, replace(inference, timesteps=[999, 700, 400, 100]), tmp_path / "start")
    trajectory = {"start": "pure_noise", "random_num_steps": True, "timesteps": [[999, 828, 617, 97], [999, 143]]}
    stage = make("e2ed2", tmp_path / "start", objective={"l2": {"weight": 1}}, trajectory=trajectory)
    for seed in range(24):
        stage.loss_terms(stage.network, stage.network, ROWS, generator(seed))
    grids = {tuple(call["timesteps"].tolist()) for call in watched}
    assert grids == {(999,), (999, 143), (999, 679, 339), (999, 828, 617, 97)}
    stage.export(stage.network, tmp_path / "model")
    _, inference = load_pipeline(tmp_path / "model")
    assert inference.own_grids == {2: [999, 143], 4: [999, 828, 617, 97]}


def test_terms_are_those_with_a_weight_and_compare_the_samples_with_their_data(tiny_model, tiny_emoji, monkeypatch):
    stage = end_to_end_stage(tiny_model, l1={"weight": 0.5}, l2={"weight": 2})
    assert stage.weights == {"l1": 0.5, "l2": 2}
    terms = stage.loss_terms(stage.network, stage.network, ROWS, generator())
    assert set(terms) == {"l1", "l2"}
    terms["l2"].backward()
    monkeypatch.setattr(stage, "_samples", lambda network, batch, *drawn: batch.x0[None, None] + 0.5)
    known = stage.loss_terms(stage.network, stage.network, ROWS, generator())
    assert known["l1"].item() == pytest.approx(0.5) and known["l2"].item() == pytest.approx(0.25)
    blocks = stage.network.transformers[0].transformer_blocks
    assert all(p.grad is not None and p.grad.isfinite().all() for p in blocks.parameters())


@pytest.mark.parametrize(
    "term",
    ["l2", "patch_energy", "lpips", "latent_lpips", "lpips_energy", "latent_lpips_energy", "mmd"]
    + ["adversarial"],
)
def test_the_gradient_reaches_every_step_of_the_chain(tiny_model, tiny_emoji, monkeypatch, term):
    """A number added to each step's prediction has a gradient of its own, also behind the decoder and the features."""
    offsets = torch.zeros(4, requires_grad=True)

    remaining = iter(offsets)

    def denoiser(*arguments):  # made once for each step
        offset = next(remaining)
        return lambda x, t, cond: denoiser_of(*arguments)(x, t, cond) + offset

    monkeypatch.setattr(few_step, "denoiser_of", denoiser)
    stage = end_to_end_stage(tiny_model, start="pure_noise", **{term: {"weight": 1}, "num_samples": 2})
    stage.loss_terms(stage.network, stage.network, ROWS, generator())[term].backward()
    assert offsets.grad.isfinite().all() and (offsets.grad != 0).all()


def test_sets_are_of_the_samples_of_full_captions(tiny_model, tiny_emoji, monkeypatch):
    """MMD sees just the rows whose caption is neither plain nor empty, and counts for nothing where there is one."""
    seen, sizes = [], []
    stage = end_to_end_stage(tiny_model, mmd={"weight": 1})
    batch = stage.data.batch
    monkeypatch.setattr(stage.data, "batch", lambda *args: seen.append(batch(*args)) or seen[-1])
    term = stage._set_terms["mmd"]
    monkeypatch.setitem(stage._set_terms, "mmd", lambda x, y: sizes.append((len(x[0][0]), len(y[0]))) or term(x, y))
    cond, drawn = stage.data._cond, []
    monkeypatch.setattr(stage.data, "_cond", lambda rows, prompts: drawn.append(prompts) or cond(rows, prompts))
    for seed in range(12):
        value = stage.loss_terms(stage.network, stage.network, ROWS, torch.Generator().manual_seed(seed))["mmd"]
        is_full = drawn[-1] == stage.data._captions[ROWS]
        assert seen[-1].is_full.equal(is_full)
        full = int(is_full.sum())
        assert (sizes.pop() == (full, full)) if full > 1 else (value.item() == 0 and not sizes)
    counts = {sum(b.is_full.tolist()) for b in seen}
    assert len(counts) > 1, "otherwise nothing was tested"


def test_lpips_compares_the_decoded_samples_with_the_pictures(tiny_model, tiny_emoji, monkeypatch):
    """A decoder that returns the very pictures makes it zero, whatever the view."""
    stage = end_to_end_stage(tiny_model, lpips={"weight": 1})
    monkeypatch.setattr(end_to_end, "decode", lambda vae, latents: stage.data.images(ROWS))
    assert stage.loss_terms(stage.network, stage.network, ROWS, generator())["lpips"].item() == 0
    monkeypatch.undo()
    assert stage.loss_terms(stage.network, stage.network, ROWS, generator())["lpips"].item() > 0.1


def test_latent_lpips_compares_the_decoder_s_own_features(tiny_model, tiny_emoji):
    """Against hooks on a whole decoding; the latents of the data have distance zero; no decoder weight learns."""
    one = {"weight": 1}
    stage = end_to_end_stage(tiny_model, latent_lpips=one, latent_lpips_energy=one, num_samples=2)
    vae, x0 = stage._pipeline.vae, stage.data.latents[ROWS]
    seen, blocks = [], (vae.decoder.mid_block, vae.decoder.up_blocks[0])
    hooks = [block.register_forward_hook(lambda *call: seen.append(call[2])) for block in blocks]
    decode(vae, x0)
    decode(vae, x0.flip(0))
    for hook in hooks:
        hook.remove()
    unit = [x / x.norm(dim=1, keepdim=True) for x in seen]
    lengths = [(a - b).norm(dim=1) for a, b in zip(unit[:2], unit[2:], strict=True)]

    def values(sample):  # of two samples that are the same
        maps = stage._decoder_maps(torch.stack([sample, sample]), x0)
        return {name: term(*maps).item() for name, term in stage._decoder_terms.items()}

    squares, first_powers = sum(n.square().mean() for n in lengths).item(), sum(n.mean() for n in lengths).item()
    by_hand = {"latent_lpips": squares, "latent_lpips_energy": first_powers}
    assert values(x0.flip(0)) == pytest.approx(by_hand, rel=1e-4)
    assert values(x0) == {"latent_lpips": 0, "latent_lpips_energy": 0}
    assert not any(p.requires_grad for p in vae.parameters())


def test_a_crop_of_samples_and_pictures_is_the_same_and_moves(tiny_model, tiny_emoji, monkeypatch):
    """A decoder that returns the pictures' own part makes the distance of crops zero, wherever they are."""
    stage = end_to_end_stage(tiny_model, lpips={"weight": 1}, crop={"size": 6, "halo": 1})
    places = set()

    def pictures(vae, latents, top, left, size, halo):
        assert (size, halo) == (6, 1)
        places.add((top, left))
        return stage.data.images(ROWS)[..., 4 * top : 4 * (top + 6), 4 * left : 4 * (left + 6)]

    monkeypatch.setattr(end_to_end, "decode_crop", pictures)
    for seed in range(8):
        assert stage.loss_terms(stage.network, stage.network, ROWS, generator(seed))["lpips"].item() == 0
    assert len(places) > 4 and {x for place in places for x in place} <= set(range(16 - 6 + 1))


def test_a_learned_grid_has_a_gradient_and_alone_nothing_else_has(tiny_model, tiny_emoji):
    def gradients(time_grid):
        trajectory = {"start": "pure_noise", "num_inference_steps": 3, "time_grid": time_grid}
        stage = make("e2ed2", tiny_model, objective={"l2": {"weight": 1}}, trajectory=trajectory)
        stage.loss_terms(stage.network, stage.network, ROWS, generator())["l2"].backward()
        return {name for name, p in stage.network.named_parameters() if p.grad is not None and p.grad.norm() > 0}

    assert gradients("learned_alone") == {"time_grids.3.logits"}
    assert {"time_grids.3.logits", "transformers.0.pos_embed.proj.weight"} <= gradients("learned")


def test_every_number_of_steps_learns_a_grid_of_its_own_and_from_noise_alone(tiny_model, tiny_emoji):
    trajectory = {"num_inference_steps": 3, "random_num_steps": True, "time_grid": "learned"}
    stage = make("e2ed2", tiny_model, objective={"l2": {"weight": 1}}, trajectory=trajectory)
    batch = stage.data.batch(ROWS, generator())
    noises = torch.randn(3, *batch.x0.shape, generator=generator())
    assert set(stage.network.time_grids) == {"2", "3"}
    for num_steps, start, taught in ((1, 0, set()), (2, 0, {"2"}), (2, 1, set()), (3, 0, {"3"}), (3, 1, set())):
        stage.network.zero_grad(set_to_none=True)
        noise = noises[: num_steps - start]
        samples = stage.network(noise, batch.cond, x0=batch.x0, num_steps=num_steps, start=start)
        (samples - batch.x0).square().mean().backward()
        assert {k for k, grid in stage.network.time_grids.items() if grid.logits.grad is not None} == taught
        assert any(p.grad is not None and p.grad.norm() > 0 for p in stage.network.transformers.parameters())


def test_a_learned_grid_is_exported_as_the_call(tiny_model, tiny_emoji, tmp_path):
    trajectory = {"start": "pure_noise", "time_grid": "learned_alone"}
    stage = make("e2ed2", tiny_model, objective={"l2": {"weight": 1}}, trajectory=trajectory)
    with torch.no_grad():
        stage.network.time_grids["4"].logits[1] -= 0.01
    timesteps = stage.network.time_grids["4"].rounded()
    stage.export(stage.network, tmp_path / "model")
    _, inference = load_pipeline(tmp_path / "model")
    assert inference.timesteps == timesteps != [999, 759, 499, 259]
    assert inference.grid().tolist() == timesteps and inference.grid(2).tolist() == [999, 499]
    assert f"timesteps={timesteps}" in (tmp_path / "model" / "README.md").read_text()


def test_the_learned_grids_of_fewer_steps_are_exported_too(tiny_model, tiny_emoji, tmp_path):
    trajectory = {"num_inference_steps": 3, "random_num_steps": True, "time_grid": "learned"}
    stage = make("e2ed2", tiny_model, objective={"l2": {"weight": 1}}, trajectory=trajectory)
    with torch.no_grad():
        for grid in stage.network.time_grids.values():
            grid.logits[0] += 0.01
    two, three = (stage.network.time_grids[k].rounded() for k in ("2", "3"))
    stage.export(stage.network, tmp_path / "model")
    _, inference = load_pipeline(tmp_path / "model")
    assert inference.own_grids == {2: two, 3: three}
    assert f"`timesteps={two}`" in (tmp_path / "model" / "README.md").read_text()
    assert [inference.grid(k).tolist() for k in (1, 2, 3)] == [[999], two, three] and two != [999, 499]
    on = make("e2ed2", tmp_path / "model", objective={"l2": {"weight": 1}}, trajectory={"num_inference_steps": 2})
    assert on.network.timesteps(2, torch.device("cpu")).tolist() == two


def test_a_learned_grid_of_the_start_stays_its_grid(tiny_model, tiny_emoji, tmp_path):
    """Of its own number of steps; other numbers keep the usual grid."""
    pipeline, inference = load_pipeline(tiny_model)
    save_pipeline(pipeline, replace(inference, timesteps=[999, 700, 400, 100]), tmp_path / "start")
    any_k = {"random_num_steps": True, "start": "pure_noise"}
    stage = make("e2ed2", tmp_path / "start", objective={"l2": {"weight": 1}}, trajectory=any_k)
    grids = [stage.network.timesteps(k, torch.device("cpu")).tolist() for k in (1, 2, 4)]
    assert grids == [[999], [999, 499], [999, 700, 400, 100]]
    stage.export(stage.network, tmp_path / "model")
    assert load_pipeline(tmp_path / "model")[1].timesteps == [999, 700, 400, 100]
    shorter = make(
        "e2ed2", tmp_path / "start", objective={"l2": {"weight": 1}}, trajectory={"num_inference_steps": 2}
    )
    assert shorter.network.timesteps(2, torch.device("cpu")).tolist() == [999, 499]


def test_a_network_for_each_step_takes_only_its_own_grid_of_the_start(tiny_model, tiny_emoji, tmp_path):
    pipeline, inference = load_pipeline(tiny_model)
    grids = {2: [999, 143], 4: [999, 700, 400, 100]}
    save_pipeline(pipeline, inference.with_grids(grids), tmp_path / "start")
    trajectory = {"start": "pure_noise", "parameters": "per_step"}
    stage = make("e2ed2", tmp_path / "start", objective={"l2": {"weight": 1}}, trajectory=trajectory)
    stage.export(stage.network, tmp_path / "model")
    assert load_pipeline(tmp_path / "model")[1].own_grids == {4: grids[4]}


def test_only_grids_that_chains_run_are_learned(tiny_model, tiny_emoji):
    drawn = {"random_num_steps": True, "num_steps_weights": [1, 0, 0, 1], "time_grid": "learned"}
    stage = make("e2ed2", tiny_model, objective={"l2": {"weight": 1}}, trajectory={"start": "pure_noise", **drawn})
    assert set(stage.network.time_grids) == {"4"}


@pytest.mark.parametrize("space", ["latent", "pixel", "feature"])
def test_the_discriminator_judges_samples_and_data_in_its_space(tiny_model, tiny_emoji, space):
    """It is shown the samples and the autoencoder's copies of the data; the sampler's gradient passes through both."""
    settings = {"weight": 1, "space": space, "buffer_size": 2}
    stage = end_to_end_stage(tiny_model, start="pure_noise", adversarial=settings, num_samples=2)
    shown = []
    look = stage.adversary._look
    stage.adversary._look = lambda stack, generator: shown.append(stack) or look(stack, generator)
    fresh = stage.adversary.loss_terms(stage.network, ROWS, generator())["discriminator"]
    value = stage.loss_terms(stage.network, stage.network, ROWS, generator(1))["adversarial"]
    stage.adversary.loss_terms(stage.network, ROWS, generator())
    assert fresh.isfinite() and value.isfinite()
    stack, remembered = shown
    assert stack.shape == (3, 6, *((4, 16, 16) if space == "latent" else (3, 64, 64))) == remembered.shape
    x0 = stage.data.latents[ROWS]
    real = x0 if space == "latent" else decode(stage._pipeline.vae, x0)
    assert torch.allclose(remembered[-1], real, atol=1e-5) and not remembered.requires_grad
    value.backward()
    assert stage.network.transformers[0].proj_out.weight.grad.abs().sum() > 0


def test_too_small_a_crop_for_the_discriminator_is_refused(tiny_model, tiny_emoji):
    settings = {"weight": 1, "space": "pixel"}
    end_to_end_stage(tiny_model, adversarial=settings, crop={"size": 4})
    with pytest.raises(UserError, match="objective.adversarial.space: pixel is 12x12 here, .* needs 16x16"):
        end_to_end_stage(tiny_model, adversarial=settings, crop={"size": 3})


@pytest.mark.parametrize("parameters", ["per_step", "lora_per_step"])
def test_a_set_per_step_trains_the_steps_that_were_run(tiny_model, tiny_emoji, parameters):
    trajectory = {"parameters": parameters, "lora_rank": 2, "start": "random_step"}
    stage = make("e2ed2", tiny_model, objective={"l2": {"weight": 1}}, trajectory=trajectory)
    starts = set()
    for seed in range(8):
        stage.network.zero_grad()
        stage.loss_terms(stage.network, stage.network, ROWS, generator(seed))["l2"].backward()
        moved = [any(p.grad is not None and p.grad.any() for p in t.parameters()) for t in stage.network.transformers]
        starts.add(moved.index(True))
        assert moved[moved.index(True) :] == [True] * (4 - moved.index(True))
    assert len(starts) > 1


def test_a_loss_on_intermediate_states_is_each_step_s_own_error(tiny_model, tiny_emoji):
    """With one step's prediction shifted, by hand: the mean over the earlier steps of the same distance."""
    stage = end_to_end_stage(tiny_model, start="pure_noise", l2={"weight": 2}, intermediate_weight=0.5)
    assert stage.weights == {"l2": 2, "intermediate_l2": 1}
    terms = stage.loss_terms(stage.network, stage.network, ROWS, generator())
    batch = stage.data.batch(ROWS, again := generator())
    with torch.no_grad():
        *earlier, last = stage._samples(stage.network, batch, *stage._draw_start(again), again)
    errors = [(x[0] - batch.x0).square().mean() for x in earlier]
    assert len(errors) == 3 and terms["intermediate_l2"].item() == pytest.approx(sum(errors).item() / 3, rel=1e-5)
    assert terms["l2"].item() == pytest.approx((last[0] - batch.x0).square().mean().item(), rel=1e-5)


def test_a_loss_on_intermediate_states_needs_one_on_latents(tiny_model, tiny_emoji):
    with pytest.raises(UserError, match="objective.intermediate_weight: 0.5 .* give one to l1, l2"):
        end_to_end_stage(tiny_model, lpips={"weight": 1}, intermediate_weight=0.5)


def test_truncated_back_propagation_reaches_the_last_steps_alone(tiny_model, tiny_emoji):
    trajectory = {"start": "pure_noise", "parameters": "per_step", "num_backprop_steps": 2}
    stage = make("e2ed2", tiny_model, objective={"l2": {"weight": 1}}, trajectory=trajectory)
    stage.loss_terms(stage.network, stage.network, ROWS, generator())["l2"].backward()
    moved = [t.proj_out.weight.grad is not None for t in stage.network.transformers]
    assert moved == [False, False, True, True]


def test_a_start_with_a_network_per_step_is_refused(tiny_model, tiny_emoji, tmp_path):
    trajectory = {"parameters": "per_step", "num_inference_steps": 2}
    stage = make("e2ed2", tiny_model, objective={"l2": {"weight": 1}}, trajectory=trajectory)
    stage.export(stage.network, tmp_path / "model")
    with pytest.raises(UserError, match="model.path: .* has a network for each of its steps"):
        end_to_end_stage(tmp_path / "model")


def test_a_teacher_that_stage_lcm_cannot_take_is_refused(tiny_model, tiny_emoji, tmp_path):
    pipeline, inference = load_pipeline(tiny_model)
    later = [copy.deepcopy(pipeline.transformer) for _ in range(inference.num_inference_steps - 1)]
    save_pipeline(pipeline, inference, tmp_path / "teacher", later)
    with pytest.raises(UserError, match="consistency.teacher: .*teacher has a network for each of its steps; give one"):
        make("lcm", tiny_model, consistency={"teacher": str(tmp_path / "teacher")})
    with pytest.raises(UserError, match="consistency.teacher: model 'nowhere': no such folder"):
        make("lcm", tiny_model, consistency={"teacher": "nowhere"})


def test_from_scratch_is_a_new_network_in_a_trained_latent_space(tiny_model, tiny_emoji, tmp_path):
    load_pipeline(tiny_model)[0].vae.save_pretrained(tmp_path)
    architecture = dict(load_pipeline(tiny_model)[0].transformer.config) | {"caption_channels": 384}
    architecture = {k: v for k, v in architecture.items() if not k.startswith("_")}
    values = {"stage": "e2ed2", "run": {"dir": "unused"}, "objective": {"l2": {"weight": 1}}}
    config = build_config({**values, "model": {"path": str(tmp_path), "architecture": architecture}})
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        stage = create_stage(config, tiny_emoji, torch.device("cpu"), lambda line: None)
        weights.append(stage.network.transformers[0].proj_out.weight)
    assert torch.equal(*weights[:2]) and not torch.equal(*weights[1:])
    assert (stage.inference.num_inference_steps, stage.inference.height) == (4, 64)
    stage.loss_terms(stage.network, stage.network, ROWS, generator())["l2"].backward()
    stage.export(stage.network, tmp_path / "model")
    assert load_pipeline(tmp_path / "model")[1] == stage.inference
    for name, value in {"in_channels": 4, "caption_channels": 384, "cross_attention_dim": 32}.items():
        wrong = {"path": str(tmp_path), "architecture": architecture | {name: 100}}
        with pytest.raises(UserError, match=f"model.architecture.{name}: 100, but .* have {value}: set it to that"):
            create_stage(build_config({**values, "model": wrong}), tiny_emoji, torch.device("cpu"), lambda line: None)


def test_a_perceptual_network_that_cannot_be_had_is_told_before_anything_is_loaded(tiny_model, tiny_emoji, monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    monkeypatch.setattr(few_step, "load_start", None)
    with pytest.raises(UserError, match="objective.perceptual_network: alex needs the packages"):
        end_to_end_stage(tiny_model, lpips={"weight": 1}, perceptual_network="alex")


def test_a_crop_larger_than_the_latents_is_refused(tiny_model, tiny_emoji):
    with pytest.raises(UserError, match="objective.crop.size: 17, but latents are 16x16: give 16 at most"):
        end_to_end_stage(tiny_model, lpips={"weight": 1}, crop={"size": 17})


def test_the_consistency_loss_is_zero_where_the_estimate_is_already_consistent(tiny_model, tiny_emoji, monkeypatch):
    """A teacher and student that know x0 exactly: every point of the path maps to x0, so the loss is zero."""
    stage = make("lcm", tiny_model)
    batch = stage.data.batch(ROWS, generator())
    monkeypatch.setattr(stage, "_x0", lambda denoise, x_t, t, cond: batch.x0)
    exact = stage.loss_terms(stage.network, stage.network, ROWS, generator())["consistency"]
    monkeypatch.undo()
    assert exact < 2e-3  # the boundary scalings keep c_skip of x_t at t = 19
    assert stage.loss_terms(stage.network, stage.network, ROWS, generator())["consistency"] > 10 * exact


def test_only_the_student_of_the_consistency_loss_learns(tiny_model, tiny_emoji):
    stage = make("lcm", tiny_model)
    average = copy.deepcopy(stage.network)
    stage.loss_terms(stage.network, average, ROWS, generator())["consistency"].backward()
    assert any(p.grad is not None for p in stage.network.parameters())
    assert all(p.grad is None for p in average.parameters())


def test_the_denoising_loss_is_the_error_of_the_velocity(tiny_model, tiny_emoji, tmp_path):
    """A network that returns zero has the mean square of alpha noise - sigma x0 as its loss: about 1 for white data."""
    load_pipeline(tiny_model)[0].vae.save_pretrained(tmp_path)
    architecture = dict(load_pipeline(tiny_model)[0].transformer.config) | {"caption_channels": 384}
    architecture = {k: v for k, v in architecture.items() if not k.startswith("_")}
    config = build_config(
        {
            "stage": "base",
            "run": {"dir": "unused"},
            "model": {"path": str(tmp_path), "architecture": architecture},
        }
    )
    stage = create_stage(config, tiny_emoji, torch.device("cpu"), lambda line: None)
    torch.nn.init.zeros_(stage.network.proj_out.weight)
    torch.nn.init.zeros_(stage.network.proj_out.bias)
    stage._data.latents = torch.randn(48, 4, 16, 16, generator=generator(3))
    loss = stage.loss_terms(stage.network, stage.network, torch.arange(48), generator())["denoising"]
    assert loss.item() == pytest.approx(1, abs=0.02)


def test_captions_are_drawn_by_their_shares(tiny_model, tiny_emoji):
    stage = make("lcm", tiny_model, data={"plain_caption_fraction": 0.3, "caption_dropout": 0.2})
    rows = torch.zeros(4000, dtype=int)
    lengths = stage.data.batch(rows, generator()).cond.mask.sum(1)
    shares = [(lengths == n).float().mean().item() for n in sorted(set(lengths.tolist()))]
    # tokens: empty 2 < plain `apple` 3 < `apple, twemoji style`
    assert shares == pytest.approx([0.2, 0.8 * 0.3, 0.8 * 0.7], abs=0.03)


def test_an_autoencoder_takes_images_of_whole_cells(tiny_emoji):
    architecture = {"block_out_channels": [8] * 8, "norm_num_groups": 4, "latent_channels": 4}
    architecture |= {"down_block_types": ["DownEncoderBlock2D"] * 8, "up_block_types": ["UpDecoderBlock2D"] * 8}
    with pytest.raises(UserError, match="data.size: 64, but a latent cell is 128 px here: give a multiple of 128"):
        make("autoencoder", objective={"l1": {"weight": 1}}, model={"architecture": architecture})


def test_the_autoencoder_exports_white_latents(tiny_emoji, tmp_path):
    stage = make("autoencoder", objective={"l1": {"weight": 1}})
    terms = stage.loss_terms(stage.network, stage.network, ROWS, generator())
    posterior = stage.network.autoencoder.encode(tiny_emoji.images[ROWS].float() / 127.5 - 1).latent_dist
    assert terms["kl"].item() == pytest.approx(posterior.kl().mean().item() / posterior.mean[0].numel(), rel=1e-4)
    stage.export(stage.network, tmp_path / "model")
    saved = load_autoencoder(tmp_path / "model")
    latents = saved.encode(tiny_emoji.images.float() / 127.5 - 1).latent_dist.mode()
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3)


def test_images_of_another_size_are_refused(tiny_model, tiny_emoji):
    with pytest.raises(UserError, match="data.size: 32, but the emoji set has 64 px"):
        make("lcm", tiny_model, data={"size": 32})
