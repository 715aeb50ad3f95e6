"""Solver steps against diffusers' schedulers (clipping off) and against values by hand."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LCMScheduler,
)
from torch import Tensor

from e2ed2.samplers import SOLVERS, ancestral_step, boundary_scalings, ddim_step, euler_step, lcm_step
from e2ed2.schedule import (
    flow_euler_schedule,
    flow_schedule,
    lcm_timesteps,
    linear_schedule,
    trailing_timesteps,
    variance_preserving,
)
from e2ed2.trajectory import unroll

BETAS = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
SHAPE = (2, 3, 5, 5)


def network(x_t: Tensor, time: Tensor) -> Tensor:
    """A bounded, nonlinear function of the state and of time in 0..1000; time is a scalar or [B]."""
    angle = (time.float() / 150).reshape((-1,) + (1,) * (x_t.ndim - 1))
    return torch.tanh(0.7 * x_t.flip(-1) + 0.5 * torch.cos(angle) - 0.2 * x_t)


def draw(num_noises: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SHAPE, generator=generator)
    return x, torch.randn(num_noises, *SHAPE, generator=generator)


def diffusers_states(scheduler, x: Tensor) -> list[Tensor]:
    """The states that a diffusers pipeline's loop passes through, clean data last."""
    states = []
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x, return_dict=False)[0]
        states.append(x)
    return states


def assert_same_states(ours: list[Tensor], theirs: list[Tensor], atol: float = 1e-5) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 8])
def test_lcm_chain_is_that_of_diffusers(num_steps, prediction_type, monkeypatch):
    x, noises = draw(num_steps - 1)
    fed = iter(noises)
    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: next(fed))
    scheduler = LCMScheduler(**BETAS, prediction_type=prediction_type, original_inference_steps=50)
    scheduler.set_timesteps(num_steps)
    timesteps = lcm_timesteps(num_steps)
    assert torch.equal(timesteps, scheduler.timesteps)
    _, states, _ = unroll(
        lambda x_t, t, _: network(x_t, t),
        x,
        timesteps,
        None,
        schedule=linear_schedule(),
        prediction_type=prediction_type,
        noises=noises,
        return_intermediates=True,
    )
    assert_same_states(states, diffusers_states(scheduler, x))
    assert next(fed, None) is None  # diffusers drew as many noises as we were given


def test_lcm_chain_on_a_learned_grid_is_that_of_diffusers(monkeypatch):
    timesteps = torch.tensor([999, 713, 402, 95])
    x, noises = draw(3)
    fed = iter(noises)
    monkeypatch.setattr("diffusers.schedulers.scheduling_lcm.randn_tensor", lambda *_, **__: next(fed))
    scheduler = LCMScheduler(**BETAS, prediction_type="v_prediction", original_inference_steps=50)
    scheduler.set_timesteps(timesteps=timesteps.tolist())
    _, states, _ = unroll(
        lambda x_t, t, _: network(x_t, t),
        x,
        timesteps,
        None,
        schedule=linear_schedule(),
        prediction_type="v_prediction",
        noises=noises,
        return_intermediates=True,
    )
    assert_same_states(states, diffusers_states(scheduler, x))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("num_steps", [1, 2, 4, 8, 25])  # divisors of 1000: see ddim_step
def test_ddim_chain_is_that_of_diffusers(num_steps, prediction_type):
    x, _ = draw(0)
    scheduler = DDIMScheduler(
        **BETAS,
        prediction_type=prediction_type,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    scheduler.set_timesteps(num_steps)
    timesteps = trailing_timesteps(num_steps)
    assert torch.equal(timesteps, scheduler.timesteps)
    _, states, _ = unroll(
        lambda x_t, t, _: network(x_t, t),
        x,
        timesteps,
        None,
        schedule=linear_schedule(),
        prediction_type=prediction_type,
        solver="ddim",
        return_intermediates=True,
    )
    assert_same_states(states, diffusers_states(scheduler, x))


@pytest.mark.parametrize("num_steps", [3, 7])
def test_ddim_step_is_that_of_diffusers_where_its_grid_and_its_steps_differ(num_steps):
    """With K = 3 diffusers goes from 999 to 666, but from 666 to 333, while its next timestep is 332."""
    x, _ = draw(0)
    scheduler = DDIMScheduler(
        **BETAS, prediction_type="sample", timestep_spacing="trailing", clip_sample=False
    )
    scheduler.set_timesteps(num_steps)
    for t in scheduler.timesteps:
        t_prev = t - 1000 // num_steps
        x0 = network(x, t)
        ours = ddim_step(linear_schedule(), x0, x, t, t_prev, torch.zeros_like(x))
        x = scheduler.step(x0, t, x).prev_sample
        torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)


def ancestral_states(x: Tensor, timesteps: Tensor, noises: Tensor, prediction_type: str) -> list[Tensor]:
    return unroll(
        lambda x_t, t, _: network(x_t, t),
        x,
        timesteps,
        None,
        schedule=linear_schedule(),
        prediction_type=prediction_type,
        solver="ancestral",
        noises=noises,
        return_intermediates=True,
    )[1]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 8])
def test_ancestral_chain_is_that_of_diffusers_euler(num_steps, prediction_type, monkeypatch):
    """In its units the state is x / alpha; SDXL-Turbo's scheduler. It draws noise of no weight after the last step."""
    x, noises = draw(num_steps)
    fed = iter(noises)
    module = "diffusers.schedulers.scheduling_euler_ancestral_discrete"
    monkeypatch.setattr(f"{module}.randn_tensor", lambda *_, **__: next(fed))
    scheduler = EulerAncestralDiscreteScheduler(**BETAS, prediction_type=prediction_type, timestep_spacing="trailing")
    scheduler.set_timesteps(num_steps)
    timesteps = trailing_timesteps(num_steps)
    assert torch.equal(timesteps, scheduler.timesteps.long())
    alphas = [*linear_schedule().alphas[timesteps], torch.tensor(1.0)]
    theirs, state = [], x / alphas[0]
    for t, alpha_prev in zip(scheduler.timesteps, alphas[1:], strict=True):
        predicted = network(scheduler.scale_model_input(state, t), t)
        state = scheduler.step(predicted, t, state, return_dict=False)[0]
        theirs.append(state * alpha_prev)
    atol = 2e-5 if num_steps > 1 else 5e-5  # one step takes x0 from the difference of two numbers over alpha = 0.006
    assert_same_states(ancestral_states(x, timesteps, noises[:-1], prediction_type), theirs, atol)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("timesteps", [[999], [999, 666, 332], [999, 713, 402, 95], [900, 400, 0]])
def test_ancestral_chain_is_that_of_ddpm_on_any_grid(timesteps, prediction_type, monkeypatch):
    x, noises = draw(len(timesteps))
    fed = iter(noises)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(fed))
    scheduler = DDPMScheduler(**BETAS, prediction_type=prediction_type, clip_sample=False, variance_type="fixed_small")
    scheduler.set_timesteps(timesteps=timesteps)
    ours = ancestral_states(x, torch.tensor(timesteps), noises[:-1], prediction_type)
    assert_same_states(ours, diffusers_states(scheduler, x))


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 7])
def test_ancestral_grid_is_that_of_ddpm(num_steps):
    scheduler = DDPMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(num_steps)
    assert torch.equal(trailing_timesteps(num_steps), scheduler.timesteps)


@pytest.mark.parametrize("std", [0.0, 0.3, 2.0])
def test_ancestral_step_for_gaussian_data_has_the_distribution_by_hand(std):
    """Data N(0.4, std^2) and E[x0 | x_t]: from x_t the mean is exact, and the variance lacks what E leaves out of x0's.

    That is b^2 std^2 sigma^2 / (alpha^2 std^2 + sigma^2), b the weight of x0 in the step: nothing for a single point.
    """
    mean, schedule = 0.4, variance_preserving(torch.tensor([0.64, 0.36], dtype=torch.float64))  # alpha 0.8 and 0.6

    def step(x_t: float, noise: float) -> float:
        x = torch.tensor([[[x_t]]], dtype=torch.float64)
        x0 = mean + 0.6 * std**2 * (x - 0.6 * mean) / (0.36 * std**2 + 0.64)
        return ancestral_step(schedule, x0, x, torch.tensor(1), torch.tensor(0), torch.full_like(x, noise)).item()

    offset, gain, fresh = step(0, 0), step(1, 0) - step(0, 0), step(0, 1) - step(0, 0)
    weight = 0.8 * (1 - 0.36 / 0.64) / 0.64
    left_out = weight**2 * std**2 * 0.64 / (0.36 * std**2 + 0.64)
    assert offset + gain * 0.6 * mean == pytest.approx(0.8 * mean, rel=1e-12)
    variance = gain**2 * (0.36 * std**2 + 0.64) + fresh**2
    assert variance == pytest.approx(0.64 * std**2 + 0.36 - left_out, rel=1e-12)


def test_noise_has_no_weight_in_the_last_ancestral_step():
    x, noises = draw(2)
    for noise in noises:
        last = ancestral_step(linear_schedule(), x.flip(0), x, torch.tensor(332), torch.tensor(-1), noise)
        assert torch.equal(last, x.flip(0))


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 8, 28])
@pytest.mark.parametrize("grid", ["default", "trailing"])
def test_flow_chain_is_that_of_diffusers(grid, num_steps, shift):
    """`default`: the scheduler's own sigmas; `trailing`: integer timesteps of ours, told to it as sigmas."""
    x, _ = draw(0)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    if grid == "default":
        scheduler.set_timesteps(num_steps)
        schedule = flow_euler_schedule(num_steps, shift=shift)
        timesteps = trailing_timesteps(num_steps, num_train_timesteps=num_steps)
    else:
        schedule, timesteps = flow_schedule(shift=shift), trailing_timesteps(num_steps)
        scheduler.set_timesteps(sigmas=((timesteps + 1) / 1000).tolist())
    torch.testing.assert_close(1000 * schedule.sigmas[timesteps], scheduler.timesteps, rtol=1e-5, atol=1e-4)
    _, states, _ = unroll(
        lambda x_t, t, _: network(x_t, 1000 * schedule.sigmas[t]),
        x,
        timesteps,
        None,
        schedule=schedule,
        prediction_type="flow_prediction",
        solver="euler",
        return_intermediates=True,
    )
    assert_same_states(states, diffusers_states(scheduler, x))


def test_boundary_scalings_by_hand():
    """sigma_data 0.5, scaling 10: at t = 1, c_skip = 0.25 / 100.25 and c_out = 10 / sqrt(100.25)."""
    c_skip, c_out = boundary_scalings(torch.tensor([0, 1]), torch.zeros(2, 3, 4, 4, dtype=torch.float64))
    assert c_skip.shape == c_out.shape == (2, 1, 1, 1)
    assert c_skip.flatten().tolist() == pytest.approx([1, 0.25 / 100.25], rel=1e-12)
    assert c_out.flatten().tolist() == pytest.approx([0, 10 / 100.25**0.5], rel=1e-12)


def test_boundary_scalings_are_those_of_diffusers_at_every_timestep():
    t = torch.arange(1000)
    expected_skip, expected_out = LCMScheduler().get_scalings_for_boundary_condition_discrete(t)
    c_skip, c_out = boundary_scalings(t, torch.zeros(1000, 1))
    torch.testing.assert_close(c_skip.flatten(), expected_skip, rtol=1e-6, atol=0)
    torch.testing.assert_close(c_out.flatten(), expected_out, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_boundary_scalings_survive_half_precision(dtype):
    """(10 t)^2 overflows float16 from t = 26 on: the network's output would lose all weight."""
    c_skip, c_out = boundary_scalings(torch.tensor([999]), torch.zeros(1, 1, dtype=dtype))
    assert c_skip.dtype == c_out.dtype == dtype and c_out.item() == 1.0 and c_skip.item() < 1e-5


def test_lcm_step_by_hand():
    """At t = 1, alpha_prev = 0.8 and sigma_prev = 0.6: 0.8 (c_out 2 + c_skip 5) + 0.6 * -1."""
    schedule = variance_preserving(torch.tensor([0.64, 0.36], dtype=torch.float64))
    x0, x_t, noise = torch.tensor([2.0, 5.0, -1.0], dtype=torch.float64).reshape(3, 1, 1)
    value = lcm_step(schedule, x0, x_t, torch.tensor(1), torch.tensor(0), noise)
    expected = 0.8 * (10 / 100.25**0.5 * 2 + 0.25 / 100.25 * 5) - 0.6
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_noise_has_no_weight_in_the_last_lcm_step():
    x, noises = draw(2)
    last = [lcm_step(linear_schedule(), x, x, torch.tensor(259), torch.tensor(-1), n) for n in noises]
    assert torch.equal(last[0], last[1])


def test_ddim_step_from_exact_data_stays_on_the_noising_line():
    """With the true x0, a step from x_t = alpha x0 + sigma noise lands on the same x0 and noise at t_prev."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 2, 4, 4, generator=generator, dtype=torch.float64)
    t, t_prev = torch.tensor([999, 500, 20]), torch.tensor([400, 499, -1])
    for schedule in (linear_schedule(), flow_schedule(shift=3.0)):
        step = ddim_step(schedule, x0, schedule.add_noise(x0, noise, t), t, t_prev, noise)
        torch.testing.assert_close(step, schedule.add_noise(x0, noise, t_prev), rtol=1e-6, atol=1e-6)


def test_euler_step_on_a_flow_schedule_is_ddim():
    """On a straight path both rules are alpha_prev x0 + sigma_prev noise."""
    x, noises = draw(1)
    schedule, x0 = flow_schedule(), noises[0]
    for t, t_prev in ((999, 749), (499, 249), (249, -1), (0, -1)):
        args = (schedule, x0, x, torch.tensor(t), torch.tensor(t_prev), torch.zeros_like(x))
        torch.testing.assert_close(euler_step(*args), ddim_step(*args), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_rows_of_a_batch_may_be_at_different_timesteps(solver):
    x, noises = draw(2)
    schedule = flow_schedule() if solver == "euler" else linear_schedule()
    t, t_prev = torch.tensor([999, 259]), torch.tensor([499, -1])
    together = SOLVERS[solver](schedule, noises[1], x, t, t_prev, noises[0])
    for row in range(2):
        part = slice(row, row + 1)
        alone = SOLVERS[solver](schedule, noises[1][part], x[part], t[row], t_prev[row], noises[0][part])
        assert torch.equal(together[part], alone)
