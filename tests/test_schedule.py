"""Noise schedules and time grids against diffusers' schedulers and values by hand."""

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, LCMScheduler

from e2ed2.schedule import (
    flow_euler_schedule,
    flow_schedule,
    lcm_timesteps,
    linear_schedule,
    scaled_linear_schedule,
    trailing_timesteps,
    variance_preserving,
)


def test_linear_schedule_by_hand():
    """Two steps of betas 0.1 and 0.3: alpha^2 is 0.9, then 0.9 * 0.7."""
    schedule = linear_schedule(0.1, 0.3, 2)
    torch.testing.assert_close(schedule.alphas**2, torch.tensor([0.9, 0.63]))
    torch.testing.assert_close(schedule.sigmas**2, torch.tensor([0.1, 0.37]))


@pytest.mark.parametrize(
    ("schedule", "betas"),
    [
        (linear_schedule(), ("linear", 1e-4, 0.02)),
        (scaled_linear_schedule(), ("scaled_linear", 0.00085, 0.012)),
    ],
)
def test_variance_preserving_schedules_are_those_of_diffusers(schedule, betas):
    kind, beta_start, beta_end = betas
    reference = DDIMScheduler(beta_schedule=kind, beta_start=beta_start, beta_end=beta_end)
    assert schedule.num_train_timesteps == 1000
    torch.testing.assert_close(schedule.alphas, reference.alphas_cumprod.sqrt(), rtol=1e-6, atol=0)
    torch.testing.assert_close(schedule.sigmas, (1 - reference.alphas_cumprod).sqrt(), rtol=1e-6, atol=0)
    torch.testing.assert_close(schedule.alphas**2 + schedule.sigmas**2, torch.ones(1000))


def test_levels_broadcast_per_row_and_minus_one_is_clean_data():
    schedule = linear_schedule()
    like = torch.zeros(3, 2, 4, 4, dtype=torch.float64)
    alpha, sigma = schedule.levels(torch.tensor([0, -1, 999]), like)
    assert alpha.shape == sigma.shape == (3, 1, 1, 1) and alpha.dtype == sigma.dtype == torch.float64
    assert alpha.flatten().tolist() == [schedule.alphas[0].item(), 1.0, schedule.alphas[999].item()]
    assert sigma.flatten().tolist() == [schedule.sigmas[0].item(), 0.0, schedule.sigmas[999].item()]


def test_levels_of_one_timestep_serve_the_whole_batch():
    schedule = linear_schedule()
    alpha, sigma = schedule.levels(torch.tensor(499), torch.zeros(3, 2))
    assert alpha.tolist() == [[schedule.alphas[499].item()]]
    assert sigma.tolist() == [[schedule.sigmas[499].item()]]


def test_levels_between_timesteps_are_on_a_line_with_its_gradient():
    schedule = linear_schedule()
    t = torch.tensor([-1.0, 0.0, 498.25, 999.0], requires_grad=True)
    alpha, sigma = schedule.levels(t, torch.zeros(4))
    whole = schedule.levels(torch.tensor([-1, 0, 498, 999]), torch.zeros(4))
    assert torch.equal(alpha[[0, 1, 3]], whole[0][[0, 1, 3]]) and torch.equal(sigma[[0, 1, 3]], whole[1][[0, 1, 3]])
    slope = schedule.alphas[499] - schedule.alphas[498]
    torch.testing.assert_close(alpha[2], schedule.alphas[498] + 0.25 * slope)
    (gradient,) = torch.autograd.grad(alpha[2], t)
    torch.testing.assert_close(gradient[2], slope)


def test_levels_beyond_the_grid_are_refused():
    with pytest.raises(IndexError):
        linear_schedule().levels(torch.tensor([1000]), torch.zeros(1, 2))


def test_add_noise_takes_each_row_to_its_own_timestep():
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 4, 3, 5, 5, generator=generator)
    t = torch.tensor([0, 10, 500, 999])
    expected = DDIMScheduler().add_noise(x0, noise, t)
    betas = variance_preserving(DDIMScheduler().alphas_cumprod)
    torch.testing.assert_close(betas.add_noise(x0, noise, t), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(betas.add_noise(x0, noise, torch.full((4,), -1)), x0)


def test_flow_schedule_by_hand():
    """T = 4: s = 1/4, 1/2, 3/4, 1; a shift of 3 maps s to 3s / (1 + 2s)."""
    torch.testing.assert_close(flow_schedule(4).sigmas, torch.tensor([0.25, 0.5, 0.75, 1.0]))
    shifted = flow_schedule(4, shift=3.0)
    torch.testing.assert_close(shifted.sigmas, torch.tensor([0.5, 0.75, 0.9, 1.0]))
    torch.testing.assert_close(shifted.alphas, torch.tensor([0.5, 0.25, 0.1, 0.0]))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_schedule_is_the_training_grid_of_diffusers(shift):
    reference = FlowMatchEulerDiscreteScheduler(shift=shift)
    torch.testing.assert_close(flow_schedule(shift=shift).sigmas, reference.sigmas.flip(0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 7, 8, 28])
def test_flow_euler_schedule_is_the_default_grid_of_diffusers(num_steps, shift):
    reference = FlowMatchEulerDiscreteScheduler(shift=shift)
    reference.set_timesteps(num_steps)
    schedule = flow_euler_schedule(num_steps, shift=shift)
    torch.testing.assert_close(schedule.sigmas, reference.sigmas[:-1].flip(0), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(schedule.alphas + schedule.sigmas, torch.ones(num_steps))
    walk = trailing_timesteps(num_steps, num_train_timesteps=num_steps)
    assert walk.tolist() == list(range(num_steps - 1, -1, -1))


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("num_steps", [1, 3, 4, 8])
def test_flow_schedule_indices_are_the_explicit_sigmas_of_diffusers(num_steps, shift):
    timesteps = trailing_timesteps(num_steps)
    reference = FlowMatchEulerDiscreteScheduler(shift=shift)
    reference.set_timesteps(sigmas=((timesteps + 1) / 1000).tolist())
    visited = flow_schedule(shift=shift).sigmas[timesteps]
    torch.testing.assert_close(visited, reference.sigmas[:-1], rtol=1e-6, atol=0)
    torch.testing.assert_close(1000 * visited, reference.timesteps, rtol=1e-6, atol=0)


def test_known_grids():
    assert lcm_timesteps(4).tolist() == [999, 759, 499, 259]
    assert lcm_timesteps(1).tolist() == trailing_timesteps(1).tolist() == [999]
    assert trailing_timesteps(4).tolist() == [999, 749, 499, 249]
    assert lcm_timesteps(4).dtype == trailing_timesteps(4).dtype == torch.int64


@pytest.mark.parametrize("original_steps", [25, 50, 100, 30])  # 30 does not divide 1000: it starts at 989
def test_lcm_grid_is_that_of_diffusers_for_every_step_count(original_steps):
    reference = LCMScheduler(original_inference_steps=original_steps)
    for num_steps in range(1, original_steps + 1):
        reference.set_timesteps(num_steps)
        ours = lcm_timesteps(num_steps, original_inference_steps=original_steps)
        assert torch.equal(ours, reference.timesteps), num_steps


@pytest.mark.parametrize("num_train_timesteps", [1000, 77])
def test_trailing_grid_is_that_of_diffusers_for_every_step_count(num_train_timesteps):
    reference = DDIMScheduler(num_train_timesteps=num_train_timesteps, timestep_spacing="trailing")
    for num_steps in range(1, num_train_timesteps + 1):
        reference.set_timesteps(num_steps)
        ours = trailing_timesteps(num_steps, num_train_timesteps=num_train_timesteps)
        assert len(ours) == num_steps and ours[-1] >= 0
        if len(reference.timesteps) == num_steps:  # for a few, such as 61, rounding gives it one too many
            assert torch.equal(ours, reference.timesteps), num_steps


@pytest.mark.parametrize(
    ("grid", "most"), [(lcm_timesteps, 50), (trailing_timesteps, 1000), (flow_euler_schedule, 1000)]
)
def test_step_counts_outside_the_grid_are_refused(grid, most):
    grid(most)
    for bad in (0, -1, most + 1):
        with pytest.raises(ValueError, match=f"num_inference_steps {bad}: must be 1 to {most}"):
            grid(bad)
