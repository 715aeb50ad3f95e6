"""The ordinary loss of diffusion training as a term of the end-to-end stage, written out for three parametrizations."""

import pytest
import torch

from e2ed2.models import few_step_network
from e2ed2.models.folders.pipeline import load_pipeline
from e2ed2.recipe.load import build_config, check_config
from e2ed2.system.errors import UserError
from e2ed2.training.latents.training_set import load_training_set
from e2ed2.training.stages.create import create_stage
from tests.models.tiny import SIDE, save_tiny

ROWS = torch.arange(4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def config_of(path, pictures, size=SIDE, objective=None, **trajectory):
    return build_config(
        {
            "stage": "e2ed2",
            "run": {"dir": "unused"},
            "model": {"path": str(path)},
            "data": {"source": "folder", "path": pictures, "size": size},
            "trajectory": {"num_inference_steps": 2, **trajectory},
            "objective": objective or {"denoising": {"weight": 1}},
            "train": {"micro_batch_size": 4},
        }
    )


def stage_of(config):
    return create_stage(config, load_training_set(config.data, print), torch.device("cpu"), lambda line: None)


def draws(stage):
    """x0, condition, noise and timesteps of rows, in the order of the code."""
    source = generator()
    batch = stage.data.batch(ROWS, source)
    noise = torch.randn(batch.x0.shape, generator=source)
    return batch.x0, batch.cond, noise, torch.randint(1000, (len(ROWS),), generator=source)


def found(stage):
    values = stage.loss_terms(stage.network, stage.network, ROWS, generator())
    assert values.keys() == {"denoising"}
    return values["denoising"]


def test_of_epsilon_it_is_the_noise_that_is_predicted(pictures, tmp_path):
    start = save_tiny("StableDiffusionPipeline", tmp_path / "start")
    stage, (pipeline, _) = stage_of(config_of(start, pictures)), load_pipeline(start)
    x0, cond, noise, t = draws(stage)
    level = pipeline.scheduler.alphas_cumprod[t][:, None, None, None]
    x_t = level**0.5 * x0 + (1 - level) ** 0.5 * noise
    prediction = pipeline.unet(x_t, t, encoder_hidden_states=cond.embeds).sample
    torch.testing.assert_close(found(stage), ((prediction - noise) ** 2).mean())


def test_of_v_it_is_the_velocity_that_is_predicted(tiny_model, pictures):
    stage, (pipeline, _) = stage_of(config_of(tiny_model, pictures, size=64)), load_pipeline(tiny_model)
    x0, cond, noise, t = draws(stage)
    level = pipeline.scheduler.alphas_cumprod[t][:, None, None, None]
    alpha, sigma = level**0.5, (1 - level) ** 0.5
    prediction = pipeline.transformer(
        alpha * x0 + sigma * noise,
        encoder_hidden_states=cond.embeds,
        encoder_attention_mask=cond.mask,
        timestep=t,
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample
    torch.testing.assert_close(found(stage), ((prediction - (alpha * noise - sigma * x0)) ** 2).mean())


def test_of_a_flow_it_is_the_straight_line_that_is_predicted(pictures, tmp_path):
    """Its times are shifted by 3, and its network is told 1000 times the noise level."""
    start = save_tiny("StableDiffusion3Pipeline", tmp_path / "start")
    stage, (pipeline, _) = stage_of(config_of(start, pictures)), load_pipeline(start)
    x0, cond, noise, t = draws(stage)
    s = (t + 1) / 1000
    sigma = 3 * s / (1 + 2 * s)
    level = sigma[:, None, None, None]
    prediction = pipeline.transformer(
        (1 - level) * x0 + level * noise,
        encoder_hidden_states=cond.embeds,
        pooled_projections=cond.pooled,
        timestep=1000 * sigma,
    ).sample
    torch.testing.assert_close(found(stage), ((prediction - (noise - x0)) ** 2).mean())


def test_alone_it_runs_no_chain_and_beside_others_it_adds_one_evaluation(tiny_model, pictures, monkeypatch):
    calls, chains, unroll = [], [], few_step_network.unroll
    monkeypatch.setattr(few_step_network, "unroll", lambda *a, **options: chains.append(1) or unroll(*a, **options))
    for objective, expected in (
        ({"denoising": {"weight": 1}}, (1, 0)),
        ({"denoising": {"weight": 1}, "l2": {"weight": 1}}, (3, 1)),
        ({"l2": {"weight": 1}}, (2, 1)),
    ):
        stage = stage_of(config_of(tiny_model, pictures, 64, objective, start="pure_noise"))
        stage.network.transformers[0].register_forward_hook(lambda *call: calls.append(1))
        assert stage.loss_terms(stage.network, stage.network, ROWS, generator()).keys() == objective.keys()
        assert (len(calls), len(chains)) == expected
        calls.clear()
        chains.clear()


def test_the_gradient_of_a_lora_reaches_its_adapter_alone(tiny_model, pictures):
    stage = stage_of(config_of(tiny_model, pictures, 64, parameters="lora", lora_rank=2))
    found(stage).backward()
    reached = {name for name, p in stage.network.named_parameters() if p.grad is not None}
    assert reached and all("lora_" in name for name in reached)


def test_guidance_by_two_evaluations_is_refused(pictures, tmp_path):
    start = save_tiny("StableDiffusionPipeline", tmp_path / "start")
    stage_of(config_of(start, pictures, guidance_scale=1))
    message = r"^objective.denoising.weight: 1.0, but this sampler guides by two evaluations a step \(scale 3\)"
    with pytest.raises(UserError, match=message):
        stage_of(config_of(start, pictures, guidance_scale=3))


@pytest.mark.parametrize(
    "trajectory",
    [{"parameters": "per_step"}, {"parameters": "lora_per_step"}, {"time_grid": "learned_alone"}],
)
def test_a_network_for_each_step_or_none_that_is_trained_is_refused(pictures, trajectory):
    with pytest.raises(UserError, match=r"^objective.denoising.weight: 1.0, but the ordinary loss trains one network"):
        check_config(config_of("x", pictures, start="pure_noise", **trajectory))
    check_config(config_of("x", pictures, start="pure_noise", parameters="lora"))
    check_config(config_of("x", pictures, start="pure_noise", time_grid="learned"))
