"""The learned time grid: always a grid, and where the best one is known, found."""

import pytest
import torch

from e2ed2.objectives.scoring import energy_score, euclidean
from e2ed2.schedule import lcm_timesteps, linear_schedule
from e2ed2.time_grid import TimeGrid
from e2ed2.trajectory import unroll


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 8])
def test_it_begins_at_the_grid_it_is_given(num_steps):
    given = lcm_timesteps(num_steps)
    grid = TimeGrid(given)
    torch.testing.assert_close(grid(), given.float(), rtol=0, atol=1e-2)
    assert grid.rounded() == given.tolist()


def test_whatever_the_parameters_it_descends_from_noise_to_data():
    grid = TimeGrid(lcm_timesteps(6))
    for seed in range(20):
        with torch.no_grad():
            grid.logits.copy_(0.1 * torch.randn(6, generator=torch.Generator().manual_seed(seed)))
        timesteps, rounded = grid(), grid.rounded()
        assert timesteps[0] == 999 and (timesteps.diff() <= 0).all() and timesteps[-1] >= 0
        assert rounded[0] == 999 and rounded[-1] >= 1 and all(a > b for a, b in zip(rounded, rounded[1:], strict=False))
        assert TimeGrid(torch.tensor(rounded))().isfinite().all(), "it may be learned on"


def test_the_gradient_is_that_of_the_gaps_logits():
    """With gaps g = softmax(l), d t_1 / d l_i = -t_0 g_0 ([i = 0] - g_i), however fast the parameters are moved."""
    grid = TimeGrid(torch.tensor([999, 828, 617, 97]))
    grid()[1].backward()
    gaps = torch.tensor([171, 211, 520, 97]) / 999
    expected = -999 * gaps[0] * (torch.tensor([1.0, 0, 0, 0]) - gaps)
    torch.testing.assert_close(grid.logits.grad, expected, rtol=1e-3, atol=0)


def test_the_best_middle_step_of_a_gaussian_is_found():
    """Data N(0, 1), the ideal denoiser E[x0 | x_t] = alpha x_t, two LCM steps.

    The first step gives about 0; the second starts from sigma n and returns alpha sigma n, which is always too narrow:
    widest, and so nearest to the data, where alpha = sigma.
    """
    schedule = linear_schedule()
    best = int((schedule.alphas - schedule.sigmas).abs().argmin())
    grid = TimeGrid(torch.tensor([999, 499]))
    optimizer = torch.optim.Adam(grid.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(0)

    def denoise(x_t, t, cond):
        return schedule.levels(t, x_t)[0] * x_t

    for _ in range(300):
        noises = torch.randn(2, 2 * 512, 1, generator=generator)
        x0 = torch.randn(512, 1, generator=generator)
        samples = unroll(
            denoise, noises[0], grid(), None, schedule=schedule, prediction_type="sample", noises=noises[1:]
        )
        optimizer.zero_grad()
        energy_score(samples.unflatten(0, (2, -1)), x0, euclidean()).backward()
        optimizer.step()
    assert grid.rounded()[1] == pytest.approx(best, abs=25)
