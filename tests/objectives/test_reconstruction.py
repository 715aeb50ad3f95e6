"""L1, L2 and Huber: values and gradients by hand."""

import pytest
import torch

from e2ed2.objectives.reconstruction import huber, l1, l2

X0 = torch.tensor([[0.0, 1.0]])
SAMPLES = torch.tensor([[[0.5, 4.0]], [[-2.0, 1.0]]])  # [m = 2, B = 1, 2]; errors 0.5, 3, -2, 0


@pytest.mark.parametrize(
    ("objective", "value", "gradient"),
    [
        (l1, 5.5 / 4, [0.25, 0.25, -0.25, 0.0]),
        (l2, 13.25 / 4, [0.25, 1.5, -1.0, 0.0]),
        (huber, (0.125 + 2.5 + 1.5 + 0) / 4, [0.125, 0.25, -0.25, 0.0]),
        (lambda s, x0: huber(s, x0, delta=2.5), (0.125 + 4.375 + 2 + 0) / 4, [0.125, 0.625, -0.5, 0.0]),
    ],
    ids=["l1", "l2", "huber", "huber-2.5"],
)
def test_value_and_gradient_by_hand(objective, value, gradient):
    samples = SAMPLES.clone().requires_grad_()
    loss = objective(samples, X0)
    loss.backward()
    assert loss.shape == () and loss.item() == pytest.approx(value)
    assert samples.grad.flatten().tolist() == pytest.approx(gradient)


@pytest.mark.parametrize(
    ("objective", "best"),
    [(l1, 1.0), (l2, 3.5), (huber, 1.5)],  # of data 0, 1, 2, 11: a median, the mean, and between them
)
def test_the_minimiser_is_one_point_per_caption(objective, best):
    """Every sample is pulled to the same point, whatever its noise: this is why the scoring rules exist."""
    data = torch.tensor([[0.0, 1.0, 2.0, 11.0]]).T  # four data of one caption, as a batch
    candidates = torch.linspace(0, 11, 111)
    values = torch.stack([objective(c.expand(1, 4, 1), data) for c in candidates])
    least = candidates[values <= values.min() + 1e-6]
    assert least.min().item() == pytest.approx(best, abs=0.06)


@pytest.mark.parametrize("objective", [l1, l2, huber])
@pytest.mark.parametrize("shape", [(2,), (1, 2), (2, 1), (3, 2, 1, 2), (2, 1, 3), (2, 2, 2)])
def test_wrong_shapes_are_refused_even_where_they_would_broadcast(objective, shape):
    with pytest.raises(ValueError, match=r"samples \(.*\): expected \[m, ...\] with x0's \(1, 2\)"):
        objective(torch.zeros(shape), X0)


@pytest.mark.parametrize("objective", [l1, l2, huber])
@pytest.mark.parametrize(
    ("samples_dtype", "x0_dtype"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)]
)
def test_mixed_precision_is_measured_in_the_wider_type(objective, samples_dtype, x0_dtype):
    samples = SAMPLES.to(samples_dtype, copy=True).requires_grad_()
    loss = objective(samples, X0.to(x0_dtype))
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(objective(SAMPLES, X0).item())
    assert samples.grad.dtype == samples_dtype and samples.grad.isfinite().all()
