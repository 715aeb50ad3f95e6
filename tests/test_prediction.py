"""Conversions between prediction types invert each other, on and off the variance-preserving circle."""

from typing import get_args

import pytest
import torch

from e2ed2.prediction import PredictionType, to_noise, to_x0, training_target
from e2ed2.schedule import linear_schedule

TYPES = get_args(PredictionType)


def assert_equal(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def draw_levels(kind: str, num: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random (alpha, sigma) in (0, 1), [num, 1, 1, 1], kept off 0: every inverse is well conditioned."""
    u = 0.05 + 0.9 * torch.rand(num, 1, 1, 1, generator=generator, dtype=torch.float64)
    if kind == "variance_preserving":
        return torch.cos(u * torch.pi / 2), torch.sin(u * torch.pi / 2)
    if kind == "flow":
        return 1 - u, u
    return u, 0.05 + 0.9 * torch.rand(num, 1, 1, 1, generator=generator, dtype=torch.float64)


@pytest.fixture(params=["variance_preserving", "flow", "any"])
def case(request):
    """(alpha, sigma, two tensors [16, 3, 4, 4]) in float64."""
    generator = torch.Generator().manual_seed(0)
    alpha, sigma = draw_levels(request.param, 16, generator)
    a, b = torch.randn(2, 16, 3, 4, 4, generator=generator, dtype=torch.float64)
    return alpha, sigma, a, b


@pytest.mark.parametrize("prediction_type", TYPES)
def test_target_gives_back_data_and_noise(case, prediction_type):
    alpha, sigma, x0, noise = case
    x_t = alpha * x0 + sigma * noise
    target = training_target(x0, noise, alpha, sigma, prediction_type)
    assert_equal(to_x0(target, x_t, alpha, sigma, prediction_type), x0)
    assert_equal(to_noise(target, x_t, alpha, sigma, prediction_type), noise)


@pytest.mark.parametrize("prediction_type", TYPES)
def test_any_prediction_is_the_target_of_what_it_converts_to(case, prediction_type):
    """A network may say anything: its x0 and noise must explain x_t and turn back into what it said."""
    alpha, sigma, prediction, x_t = case
    x0 = to_x0(prediction, x_t, alpha, sigma, prediction_type)
    noise = to_noise(prediction, x_t, alpha, sigma, prediction_type)
    assert_equal(alpha * x0 + sigma * noise, x_t)
    assert_equal(training_target(x0, noise, alpha, sigma, prediction_type), prediction)


@pytest.mark.parametrize(
    ("prediction_type", "value"),
    [("epsilon", -1.0), ("sample", 2.0), ("v_prediction", -2.0), ("flow_prediction", -3.0)],
)
def test_targets_by_hand(prediction_type, value):
    """x0 = 2, noise = -1, alpha = 0.8, sigma = 0.6: v = 0.8 * -1 - 0.6 * 2, flow = -1 - 2."""
    x0, noise, alpha, sigma = torch.tensor([2.0, -1.0, 0.8, 0.6], dtype=torch.float64)
    assert training_target(x0, noise, alpha, sigma, prediction_type).item() == pytest.approx(value)


@pytest.mark.parametrize("prediction_type", TYPES)
def test_each_row_is_converted_at_its_own_timestep(prediction_type):
    generator = torch.Generator().manual_seed(1)
    x0, noise = torch.randn(2, 3, 2, 4, 4, generator=generator, dtype=torch.float64)
    schedule, t = linear_schedule(), torch.tensor([100, 400, 800])
    alpha, sigma = schedule.levels(t, x0)
    x_t = schedule.add_noise(x0, noise, t)
    target = training_target(x0, noise, alpha, sigma, prediction_type)
    torch.testing.assert_close(to_x0(target, x_t, alpha, sigma, prediction_type), x0, rtol=1e-6, atol=1e-6)
