"""GAN losses of both sides against values by hand, their gradients' signs, and the penalty of a linear critic."""

import math

import pytest
import torch

from e2ed2.objectives.adversarial import adversarial_loss, discriminator_loss, r1_penalty

REAL, FAKE = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])


@pytest.mark.parametrize(
    ("kind", "discriminator", "generator"),
    [
        ("hinge", (0 + 0.5) / 2 + (0 + 1) / 2, 1.5),
        (
            "non_saturating",
            (math.log1p(math.exp(-2)) + math.log1p(math.exp(-0.5))) / 2
            + (math.log1p(math.exp(-3)) + math.log(2)) / 2,
            (math.log1p(math.exp(3)) + math.log(2)) / 2,
        ),
        ("least_squares", (1 + 0.25) / 2 + 9 / 2, (16 + 1) / 2),
    ],
)
def test_losses_by_hand(kind, discriminator, generator):
    assert discriminator_loss(REAL, FAKE, kind).item() == pytest.approx(discriminator, rel=1e-6)
    assert adversarial_loss(FAKE, kind).item() == pytest.approx(generator, rel=1e-6)


@pytest.mark.parametrize("kind", ["hinge", "non_saturating", "least_squares"])
def test_the_sides_pull_a_sample_s_logit_apart(kind):
    logit = torch.tensor([0.0], requires_grad=True)
    (down,) = torch.autograd.grad(discriminator_loss(torch.tensor([0.0]), logit, kind), logit)
    (up,) = torch.autograd.grad(adversarial_loss(logit, kind), logit)
    assert up < 0 <= down  # the sampler's descent raises the logit, the discriminator's does not


def test_the_penalty_of_a_linear_critic_is_half_its_squared_weights_and_reaches_them():
    """D(x) = w . x: the gradient is w at every image, so R1 = ||w||^2 / 2 and its gradient is w."""
    weight = torch.tensor([3.0, -4.0], requires_grad=True)
    real = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    penalty = r1_penalty(real @ weight, [real])
    assert penalty.item() == pytest.approx(12.5)
    penalty.backward()
    assert weight.grad.tolist() == pytest.approx([3, -4])
