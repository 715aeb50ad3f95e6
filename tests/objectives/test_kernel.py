"""The kernel form against closed forms of Gaussians."""

import math

import pytest
import torch

from e2ed2.objectives.kernel import feature_mmd, mmd


def normal(n, d=1, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_mmd_of_two_gaussians_is_the_closed_form():
    """E|N(1, 1) - N(0, 1)| = 2 phi(c) sqrt(2) + ... with c = 1/sqrt(2); E|X - X'| = 2/sqrt(pi)."""
    c = 1 / math.sqrt(2)
    cdf = 0.5 * (1 + math.erf(c / math.sqrt(2)))
    across = math.sqrt(2) * (2 * math.exp(-(c**2) / 2) / math.sqrt(2 * math.pi) + c * (2 * cdf - 1))
    expected = across - 2 / math.sqrt(math.pi)
    assert mmd(1 + normal(4000), normal(4000, seed=1)).item() == pytest.approx(expected, abs=0.02)


def test_mmd_is_unbiased_at_few_points():
    values = [mmd(normal(3, seed=2 * s), normal(2, seed=2 * s + 1)).item() for s in range(4000)]
    mean, error = torch.tensor(values).mean().item(), torch.tensor(values).std().item() / math.sqrt(4000)
    assert abs(mean) < 3 * error and error < 0.02


def test_mmd_s_descent_finds_mean_and_spread():
    """x = a + b z against N(2, 0.5^2): both parameters are found."""
    a, b = torch.zeros(1, requires_grad=True), torch.ones(1, requires_grad=True)
    optimizer = torch.optim.Adam([a, b], lr=0.02)
    for step in range(600):
        optimizer.zero_grad()
        z, y = normal(64, seed=2 * step).float(), 2 + 0.5 * normal(64, seed=2 * step + 1).float()
        mmd(a + b * z, y).backward()
        optimizer.step()
    assert a.item() == pytest.approx(2, abs=0.1) and abs(b.item()) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize("m", [1, 2])
def test_mmd_is_unbiased_where_samples_share_their_captions_with_the_data(m):
    """Image and samples of caption c are N(c, 0.1^2): equal conditionals, and far more alike than two captions are."""
    values = []
    for seed in range(1500):
        captions = normal(4, seed=seed)
        data, samples = captions + 0.1 * normal(4, seed=10_000 + seed), captions.repeat(m, 1)
        samples = samples + 0.1 * normal(4 * m, seed=20_000 + seed)
        values.append([mmd(samples, data, is_paired=True).item(), mmd(samples, data).item()])
    paired, as_if_independent = torch.tensor(values).unbind(1)
    error = paired.std().item() / math.sqrt(len(values))
    assert abs(paired.mean().item()) < 3 * error and error < 0.01
    assert as_if_independent.mean().item() < -0.1


def test_mmd_leaves_each_caption_its_spread():
    """x = c + b z beside data c + 0.5 z': b = 0 is what a regression on one's own image would find."""
    b = torch.tensor([1.0], requires_grad=True)
    optimizer = torch.optim.Adam([b], lr=0.02)
    for step in range(400):
        optimizer.zero_grad()
        captions = normal(24, 8, seed=3 * step).float()
        samples = captions + b * normal(24, 8, seed=3 * step + 1).float()
        mmd(samples, captions + 0.5 * normal(24, 8, seed=3 * step + 2).float(), True).backward()
        optimizer.step()
    assert abs(b.item()) == pytest.approx(0.5, abs=0.15)


def test_feature_mmd_is_that_of_means_and_deviations_of_every_map():
    samples, data = (normal(4, 2 * 9 + 25, seed=s) for s in (1, 2))
    maps = [[x[:, :18].reshape(4, 2, 3, 3), x[:, 18:].reshape(4, 1, 5, 5)] for x in (samples, data)]
    by_hand = []
    for fake, real in zip(*maps, strict=True):
        for pool in (lambda x: x.mean((2, 3)), lambda x: x.std((2, 3), correction=0)):
            by_hand.append(mmd(pool(fake), pool(real), is_paired=True).item())
    assert feature_mmd([maps[0]], maps[1]).item() == pytest.approx(sum(by_hand) / 4, rel=1e-6)


def test_feature_mmd_leaves_out_two_samples_of_one_caption():
    first, second, data = ([normal(3, 2 * 4, seed=s).reshape(3, 2, 2, 2)] for s in (1, 2, 3))
    both = feature_mmd([first, second], data)
    means = [x[0].mean((2, 3)) for x in (first, second, data)]
    deviations = [x[0].std((2, 3), correction=0) for x in (first, second, data)]
    by_hand = [mmd(torch.cat(x[:2]), x[2], is_paired=True).item() for x in (means, deviations)]
    assert both.item() == pytest.approx(sum(by_hand) / 2, rel=1e-6)


def test_two_samples_in_one_place_have_a_finite_gradient():
    samples = torch.zeros(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(mmd(samples, torch.randn(4, 3)), samples)
    assert gradient.isfinite().all()


def test_small_distances_and_deviations_are_kept():
    """What the floors under the roots must not touch: points 1e-5 apart, maps that vary by 1e-3."""
    samples, data = torch.tensor([[0.0], [1e-5]]), torch.tensor([[3e-5], [5e-5]])
    assert mmd(samples, data).item() == pytest.approx(3.5e-5 - 0.5e-5 - 1e-5, rel=1e-3)
    wave = torch.tensor([-1.0, 1.0]).repeat(8).reshape(1, 1, 4, 4)
    fake, real = ((1e-3 * torch.tensor(scales).reshape(2, 1, 1, 1) * wave,) for scales in ([1.0, 2.0], [4.0, 8.0]))
    deviations = [torch.tensor(scales)[:, None] * 1e-3 for scales in ([1.0, 2.0], [4.0, 8.0])]
    assert feature_mmd([fake], real).item() == pytest.approx(mmd(*deviations, is_paired=True).item() / 2, rel=1e-2)


def test_maps_that_do_not_vary_have_a_finite_gradient():
    flat = torch.ones(2, 1, 3, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(feature_mmd([(flat,)], (torch.randn(2, 1, 3, 3),)), flat)
    assert gradient.isfinite().all()
