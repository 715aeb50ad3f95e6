"""Kernel forms against closed forms of Gaussians and fields by hand."""

import math

import pytest
import torch

from e2ed2.objectives.kernel import drifting, mmd, of_pooled_features


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


@pytest.mark.parametrize("rule", [mmd, drifting])
def test_a_set_term_leaves_each_caption_its_spread(rule):
    """x = c + b z beside data c + 0.5 z': b = 0 is what a regression on one's own image would find."""
    b = torch.tensor([1.0], requires_grad=True)
    optimizer = torch.optim.Adam([b], lr=0.02)
    for step in range(400):
        optimizer.zero_grad()
        captions = normal(24, 8, seed=3 * step).float()
        samples = captions + b * normal(24, 8, seed=3 * step + 1).float()
        rule(samples, captions + 0.5 * normal(24, 8, seed=3 * step + 2).float(), True).backward()
        optimizer.step()
    assert abs(b.item()) == pytest.approx(0.5, abs=0.15)


def test_samples_drift_to_the_data_and_apart():
    """Two samples beside each other, the data on either side: each goes to its own side."""
    samples = torch.tensor([[-0.1], [0.1]], requires_grad=True)
    drifting(samples, torch.tensor([[-1.0], [1.0]])).backward()
    assert samples.grad[0] > 0 > samples.grad[1]  # descent lowers the first, raises the second


def test_the_drift_by_hand():
    """One temperature's field of two samples and two points, written out."""
    from e2ed2.objectives import kernel

    x, y, t = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [3.0]]), 2.0
    e = lambda d: math.exp(-d / t)  # noqa: E731
    k = [[e(0), e(3), 0, e(1)], [e(1), e(2), e(1), 0]]  # rows: samples; columns: data, samples
    w = [[math.sqrt(k[i][j] / sum(k[i]) * k[i][j] / (k[0][j] + k[1][j])) for j in range(4)] for i in range(2)]
    expected = [
        (w[i][0] * 0 + w[i][1] * 3) * (w[i][2] + w[i][3]) - (w[i][2] * 0 + w[i][3] * 1) * (w[i][0] + w[i][1])
        for i in range(2)
    ]
    apart = torch.cat([torch.ones(2, 2), 1 - torch.eye(2)], 1).bool()
    assert kernel._field(x, y, t, apart).flatten().tolist() == pytest.approx(expected, rel=1e-5)


def test_drifting_finds_mean_and_spread():
    a, b = torch.zeros(1, requires_grad=True), torch.ones(1, requires_grad=True)
    optimizer = torch.optim.Adam([a, b], lr=0.02)
    for step in range(600):
        optimizer.zero_grad()
        z, y = normal(64, seed=2 * step).float(), 2 + 0.5 * normal(64, seed=2 * step + 1).float()
        drifting(a + b * z, y).backward()
        optimizer.step()
    assert a.item() == pytest.approx(2, abs=0.15) and abs(b.item()) == pytest.approx(0.5, abs=0.2)


def test_pooled_features_are_means_and_deviations_of_every_map():
    maps = (torch.arange(16.0).reshape(2, 2, 2, 2), torch.ones(2, 1, 3, 3))
    seen = []
    of_pooled_features(lambda a, b, is_paired: seen.append((a, b)) or a.sum())([maps, maps], maps)
    assert [tuple(a.shape) for a, _ in seen] == [(4, 2), (4, 2), (4, 1), (4, 1)]
    assert seen[0][1].tolist() == [[1.5, 5.5], [9.5, 13.5]]
    assert seen[1][1][0, 0].item() == pytest.approx(math.sqrt(1.25))
    assert seen[3][1].abs().max() < 1e-3


def test_two_samples_in_one_place_have_a_finite_gradient():
    samples = torch.zeros(2, 3, requires_grad=True)
    for rule in (mmd, drifting):
        (gradient,) = torch.autograd.grad(rule(samples, torch.randn(4, 3)), samples)
        assert gradient.isfinite().all()
