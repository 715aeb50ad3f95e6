"""Diffusers' schedulers and our solvers: which is which, the same noise levels, the same steps."""

from types import SimpleNamespace

import diffusers
import pytest
import torch

from e2ed2.models.families.flux import Flux
from e2ed2.models.folders.inference import Inference
from e2ed2.models.scheduler import (
    EXPORTERS,
    few_step_scheduler,
    few_step_solver,
    flow_scheduler,
    noise_scheduler,
    prediction_type_of,
    schedule_of,
    solver_of,
)
from e2ed2.samplers import SOLVERS, ddim_step
from e2ed2.schedule import scaled_linear_schedule
from e2ed2.system.errors import UserError
from e2ed2.training.latents.training_set import load_training_set
from e2ed2.training.loop import train
from e2ed2.training.stages.create import create_stage
from e2ed2.trajectory import draw_noises, unroll
from tests.models.tiny import save_tiny

SCALED_LINEAR = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}

FLOW_DPM = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


@pytest.mark.parametrize(
    ("name", "options", "as_it_is", "few_steps"),
    [
        ("LCMScheduler", {}, "lcm", "lcm"),
        ("PNDMScheduler", {}, "ddim", "lcm"),
        ("DPMSolverMultistepScheduler", {}, "ddim", "lcm"),
        ("DPMSolverMultistepScheduler", {"solver_order": 1}, "ddim", "ddim"),
        ("EulerDiscreteScheduler", {}, "ddim", "lcm"),
        ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, "ddim", "ddim"),
        ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}, "ancestral", "ancestral"),
        ("EulerAncestralDiscreteScheduler", {}, "ddim", "lcm"),
        ("DDPMScheduler", {}, "ddim", "lcm"),
        ("DDIMScheduler", {"timestep_spacing": "trailing"}, "ddim", "lcm"),
        ("FlowMatchEulerDiscreteScheduler", {}, "euler", "euler"),
        ("DPMSolverMultistepScheduler", FLOW_DPM, "euler", "euler"),
        ("SCMScheduler", {}, "scm", "scm"),
    ],
)
def test_the_solver_of_a_start(name, options, as_it_is, few_steps):
    scheduler = getattr(diffusers, name)(**options)
    assert (solver_of(scheduler), few_step_solver(scheduler)) == (as_it_is, few_steps)
    again = few_step_scheduler(few_steps, scheduler)
    assert few_step_solver(again) == few_steps  # what is exported is unrolled the same way again


@pytest.mark.parametrize("solver", ["lcm", "ddim", "ancestral"])
def test_the_start_s_own_noise_levels_and_prediction_stay(solver):
    start = diffusers.PNDMScheduler(**SCALED_LINEAR, prediction_type="v_prediction")
    scheduler = few_step_scheduler(solver, start)
    assert torch.allclose(schedule_of(scheduler).alphas, scaled_linear_schedule().alphas, atol=1e-6)
    assert scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_has_a_scheduler_of_diffusers(solver):
    own = {"euler": diffusers.FlowMatchEulerDiscreteScheduler, "scm": diffusers.SCMScheduler}
    start = own[solver]() if solver in own else diffusers.DDIMScheduler(**SCALED_LINEAR)
    assert solver_of(few_step_scheduler(solver, start)) == solver
    assert EXPORTERS.keys() == SOLVERS.keys()


@pytest.mark.parametrize("class_name", ["StableDiffusionPipeline", "StableDiffusion3Pipeline"])
def test_a_solver_that_cannot_be_exported_is_refused_before_anything_is_encoded(
    class_name, recipe, tmp_path, monkeypatch
):
    monkeypatch.setitem(SOLVERS, "heun", ddim_step)
    monkeypatch.setattr("diffusers.AutoencoderKL.encode", lambda *args, **options: pytest.fail("encoded"))
    config = recipe(tmp_path / "run", save_tiny(class_name, tmp_path / "start"))
    config = config.model_copy(update={"trajectory": config.trajectory.model_copy(update={"solver": "heun"})})
    data = load_training_set(config.data, print)
    monkeypatch.setattr("e2ed2.models.folders.trial._try_autoencoder", lambda pipeline: None)  # which encodes
    message = "trajectory.solver: heun has no scheduler .*; give one of lcm, ddim, ancestral, euler, scm$"
    with pytest.raises(UserError, match=message):
        create_stage(config, data, torch.device("cpu"), print)
    with pytest.raises(UserError, match="trajectory.solver: heun"):
        few_step_scheduler("heun", diffusers.DDIMScheduler())
    with pytest.raises(UserError, match="solver euler: models of our own"):
        noise_scheduler("euler", "v_prediction")


@pytest.mark.parametrize("timesteps", [[999, 666, 332], [999, 820, 400, 33]])
def test_exported_ddim_takes_our_steps_on_any_grid(timesteps):
    """A denoiser that returns a part of its input; three steps do not divide 1000, the other grid is learned."""
    scheduler = few_step_scheduler("ddim", diffusers.PNDMScheduler(**SCALED_LINEAR))
    x = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = unroll(
        lambda x_t, t, cond: 0.9 * x_t,
        x,
        torch.tensor(timesteps),
        None,
        schedule=schedule_of(scheduler),
        prediction_type="epsilon",
        solver="ddim",
    )
    scheduler.set_timesteps(timesteps=timesteps)
    for t in scheduler.timesteps:
        x = scheduler.step(0.9 * x, t, x).prev_sample
    torch.testing.assert_close(ours, x.to(ours), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("timesteps", [[999, 666, 332], [999, 820, 400, 33], [999, 998, 1, 0]])
def test_exported_ancestral_takes_our_steps_on_any_grid_and_draws_our_noises(timesteps):
    """Noise of one step after the other from one generator; nothing is drawn after the last that has a weight."""
    scheduler = few_step_scheduler("ancestral", diffusers.EulerAncestralDiscreteScheduler(**SCALED_LINEAR))
    noises = draw_noises((1, 4, 2, 2), len(timesteps), torch.Generator().manual_seed(0))
    ours = unroll(
        lambda x_t, t, cond: 0.9 * x_t,
        noises[0],
        torch.tensor(timesteps),
        None,
        schedule=schedule_of(scheduler),
        prediction_type="epsilon",
        solver="ancestral",
        noises=noises[1:],
    )
    scheduler.set_timesteps(timesteps=timesteps)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 2, 2, generator=generator)
    for t in scheduler.timesteps:
        x = scheduler.step(0.9 * x, t, x, generator=generator).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-5)


def test_a_flow_pipeline_is_given_our_grid_as_noise_levels():
    start = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler = few_step_scheduler("euler", start)
    steps = Inference("euler", 4, 1.0, 64, 64).steps()
    assert steps == {"sigmas": [1.0, 0.75, 0.5, 0.25]}
    scheduler.set_timesteps(**steps)
    expected = schedule_of(scheduler).sigmas[[999, 749, 499, 249]]
    torch.testing.assert_close(scheduler.sigmas[:-1], expected)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (diffusers.EDMEulerScheduler(), "noise levels of its EDMEulerScheduler are not known"),
        (diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), "one fixed shift"),
        (diffusers.DDIMScheduler(num_train_timesteps=100), "not of 1000 timesteps"),
    ],
)
def test_noise_levels_that_we_do_not_have_are_refused(scheduler, message):
    with pytest.raises(UserError, match=f"model.path: .*{message}"):
        schedule_of(scheduler)


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DDIMScheduler(**SCALED_LINEAR, rescale_betas_zero_snr=True),
        diffusers.LCMScheduler(rescale_betas_zero_snr=True),
        diffusers.DPMSolverMultistepScheduler(**SCALED_LINEAR, rescale_betas_zero_snr=True),  # its last: 2e-4
        diffusers.EulerDiscreteScheduler(**SCALED_LINEAR, rescale_betas_zero_snr=True),
        diffusers.EulerDiscreteScheduler(rescale_betas_zero_snr=True),  # its last is above the one before: 4e-9, 6e-8
        diffusers.EulerAncestralDiscreteScheduler(rescale_betas_zero_snr=True),
        diffusers.UniPCMultistepScheduler(rescale_betas_zero_snr=True),
        diffusers.DDIMScheduler(trained_betas=[*[1e-3] * 999, 1.0]),
    ],
)
def test_no_noise_is_predicted_where_nothing_else_is_left(scheduler):
    """Zero terminal SNR (arXiv:2305.08891): x0 would be the prediction's error over 0."""
    with pytest.raises(UserError, match="there is no noise prediction at zero SNR: give a v_prediction model"):
        schedule_of(scheduler)
    scheduler.register_to_config(prediction_type="v_prediction")
    assert schedule_of(scheduler).alphas[-1] < 1e-3


def test_a_start_of_zero_snr_is_refused_before_anything_is_encoded(recipe, tmp_path, monkeypatch):
    scheduler = diffusers.DDIMScheduler(**SCALED_LINEAR, rescale_betas_zero_snr=True)
    start = save_tiny("StableDiffusionPipeline", tmp_path / "start", scheduler=scheduler)
    monkeypatch.setattr("diffusers.AutoencoderKL.encode", lambda *args, **options: pytest.fail("encoded"))
    with pytest.raises(UserError, match="no noise prediction at zero SNR"):
        train(recipe(tmp_path / "run", start), print)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (diffusers.FlowMatchEulerDiscreteScheduler(shift=-1.0), "do not rise within 0 to 1"),
        (diffusers.FlowMatchEulerDiscreteScheduler(shift=float("nan")), "do not rise within 0 to 1"),
        (diffusers.DDIMScheduler(trained_betas=[0.0] * 1000), "do not rise within 0 to 1"),
        (diffusers.DDIMScheduler(trained_betas=[1e-3] * 999), "do not rise within 0 to 1"),
        (diffusers.DDIMScheduler(trained_betas=[*[1e-3] * 500, *[-1e-3] * 500]), "do not rise within 0 to 1"),
        (diffusers.DDIMScheduler(trained_betas=[]), "do not rise within 0 to 1"),
        (diffusers.DDIMScheduler(prediction_type="x"), "prediction_type is 'x'; .*: one of epsilon, sample, v_pred"),
    ],
)
def test_levels_and_predictions_that_cannot_be_are_named(scheduler, message):
    with pytest.raises(UserError, match=f"model.path: .*{message}"):
        schedule_of(scheduler)


@pytest.mark.parametrize("shift", [0.3, 1.0, 1.7, 3.0, 6.93])
def test_any_shift_ends_in_pure_noise(shift):
    levels = schedule_of(diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)).sigmas
    assert levels[-1].item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_a_dynamic_shift_is_a_fixed_one_for_one_size(kind):
    """FLUX.1's of a picture of 1024 x 768 pixels, by its own pipeline's rule."""
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    dynamic = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind)
    network = SimpleNamespace(config=SimpleNamespace(sample_size=128))
    vae = diffusers.AutoencoderKL.from_config({"block_out_channels": [4, 4, 4, 4], "norm_num_groups": 4})
    pipeline = SimpleNamespace(scheduler=dynamic, transformer=network, vae=vae)
    fixed = flow_scheduler(Flux().shift(pipeline, 1024, 768, num_steps=4))
    sigmas = [1.0, 0.75, 0.5, 0.25]
    dynamic.set_timesteps(sigmas=sigmas, mu=calculate_shift(64 * 48))
    fixed.set_timesteps(sigmas=sigmas)
    torch.testing.assert_close(fixed.sigmas, dynamic.sigmas)
    torch.testing.assert_close(fixed.timesteps, dynamic.timesteps)
    t = torch.tensor([999, 749, 499, 249])
    torch.testing.assert_close(schedule_of(fixed).sigmas[t], dynamic.sigmas[:-1])


@torch.no_grad()
@pytest.mark.parametrize("num_steps", [1, 2, 4])
def test_scm_steps_are_those_of_diffusers(num_steps):
    """In units in which data have deviation 1, which diffusers multiplies by sigma_data."""
    scheduler, call = diffusers.SCMScheduler(), Inference("scm", num_steps, 4.5, 64, 64)
    scheduler.set_timesteps(**call.steps())
    noises = draw_noises((3, 4, 2, 2), num_steps, torch.Generator().manual_seed(0))
    x = noises[0] * scheduler.config.sigma_data
    generator = torch.Generator().manual_seed(0)
    torch.randn(noises[0].shape, generator=generator)  # the start's
    for t in scheduler.timesteps[:-1]:
        prediction = (x / scheduler.config.sigma_data).tanh() * scheduler.config.sigma_data
        x, denoised = scheduler.step(prediction, t, x, generator=generator, return_dict=False)
    ours = unroll(
        lambda x_t, t, cond: x_t.tanh(), noises[0], call.grid(), None, schedule=schedule_of(scheduler),
        prediction_type=prediction_type_of(scheduler), solver="scm", noises=noises[1:],
    )  # fmt: skip
    torch.testing.assert_close(ours, denoised / scheduler.config.sigma_data, rtol=1e-4, atol=1e-5)


def test_our_own_models_have_the_betas_of_pixart():
    assert noise_scheduler("ddim", "v_prediction").config.beta_end == 0.02


def test_a_flow_that_draws_noise_on_its_way_is_refused():
    from diffusers import FlowMatchEulerDiscreteScheduler

    with pytest.raises(UserError, match="draws noise after every step, .*: set stochastic_sampling false in scheduler"):
        schedule_of(FlowMatchEulerDiscreteScheduler(stochastic_sampling=True))
