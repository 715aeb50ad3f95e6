"""Intervals cover the truth as often as they say; paired differences cancel what two models have in common."""

import numpy as np
import pytest
import scipy.stats
import torch

from e2ed2.evaluation.metrics import intervals as iv
from e2ed2.evaluation.metrics.distribution import kernel_distance
from e2ed2.system.errors import UserError


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_mean_interval_covers_the_truth_and_ignoring_captions_would_not():
    hits, naive_hits = 0, 0
    for draw in range(200):
        z = normal(25, seed=draw).repeat_interleave(4) + 0.3 * normal(100, seed=1000 + draw)
        estimate = iv.mean_estimate(z, [i // 4 for i in range(100)])
        naive = iv.mean_estimate(z)
        hits += estimate.low <= 0 <= estimate.high
        naive_hits += naive.low <= 0 <= naive.high
    assert 0.91 <= hits / 200 <= 0.99
    assert naive_hits / 200 < 0.8


def test_share_interval_covers_the_truth():
    hits = 0
    for draw in range(200):
        inside = (normal(60, seed=draw) < -1.2816).repeat_interleave(3)  # 10% of captions, all their samples
        estimate = iv.share_estimate(inside, [i // 3 for i in range(180)])
        hits += estimate.low <= 0.1 <= estimate.high
    assert 0.9 <= hits / 200 <= 0.99


def test_share_of_none_or_all_still_has_an_interval():
    none, every = iv.share_estimate(torch.zeros(50, dtype=torch.bool)), iv.share_estimate(torch.ones(50) > 0)
    assert (none.value, none.low) == (0.0, 0.0) and 0.05 < none.high < 0.1
    assert (every.value, every.high) == (1.0, 1.0) and every.low == pytest.approx(1 - none.high)


def test_share_interval_of_independent_points_is_wilsons():
    estimate = iv.share_estimate(torch.arange(400) < 100)
    expected = scipy.stats.binomtest(100, 400).proportion_ci(method="wilson")
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), abs=1e-3)


def test_ratio_of_means():
    estimate = iv.ratio_estimate(torch.tensor([2.0, 4.0, 6.0]), torch.tensor([1.0, 3.0]))
    assert estimate.value == 2.0 and estimate.low < 2 < estimate.high


def test_paired_difference_of_means_is_the_paired_t_interval():
    hardness = normal(40, seed=1)
    a, b = hardness + 0.1 * normal(40, seed=2) + 0.2, hardness + 0.1 * normal(40, seed=3)
    paired = iv.paired_difference(iv.mean_estimate(a), iv.mean_estimate(b))
    expected = scipy.stats.ttest_rel(a.numpy(), b.numpy()).confidence_interval()
    assert (paired.low, paired.high) == pytest.approx((expected.low, expected.high), rel=1e-9)
    assert paired.value == pytest.approx(float((a - b).mean()))
    apart = iv.mean_estimate(a)
    assert paired.high - paired.low < (apart.high - apart.low) / 3, "the captions' hardness cancels"


def test_paired_difference_of_kernel_distances_recomputes_everything():
    x, other, y = normal(12, 4, seed=4) + 1, normal(12, 4, seed=5), normal(10, 4, seed=6)
    found = iv.paired_difference(kernel_distance(x, y), kernel_distance(other, y))

    def without(i, j):
        keep_x, keep_y = torch.arange(12) != i, torch.arange(10) != j
        values = [kernel_distance(z[keep_x], y[keep_y]).value for z in (x, other)]
        return values[0] - values[1]

    sides = [np.array([without(i, -1) for i in range(12)]), np.array([without(-1, j) for j in range(10)])]
    variances = [((r - r.mean()) ** 2).sum() * (len(r) - 1) / len(r) for r in sides]
    degrees = sum(variances) ** 2 / sum(v**2 / (len(r) - 1) for v, r in zip(variances, sides, strict=True))
    half = scipy.stats.t.ppf(0.975, degrees) * sum(variances) ** 0.5
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=1e-6)


def test_pairs_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="needs the same prompts and reference"):
        iv.paired_difference(iv.mean_estimate(normal(4)), iv.mean_estimate(normal(5)))


def test_the_interval_of_a_ratio_leaves_out_each_value_of_either():
    x, y = [2.0, 4.0, 9.0], [1.0, 3.0, 4.0, 4.0]
    estimate = iv.ratio_estimate(torch.tensor(x), torch.tensor(y))
    without = [
        [np.mean(x[:i] + x[i + 1 :]) / np.mean(y) for i in range(3)],
        [np.mean(x) / np.mean(y[:i] + y[i + 1 :]) for i in range(4)],
    ]
    variances = [(len(w) - 1) / len(w) * sum((v - np.mean(w)) ** 2 for v in w) for w in without]
    degrees = sum(variances) ** 2 / (variances[0] ** 2 / 2 + variances[1] ** 2 / 3)
    half = scipy.stats.t.ppf(0.975, degrees) * sum(variances) ** 0.5
    assert (estimate.value, estimate.high - estimate.value) == pytest.approx((5 / 3, half), rel=1e-9)


def wilson(share: float, count: float, degrees: int) -> tuple[float, float]:
    """Wilson's interval of a share of `count` points, with Student's t for the normal."""
    z2 = scipy.stats.t.ppf(0.975, degrees) ** 2
    centre, half = share + z2 / (2 * count), (z2 * (share * (1 - share) / count + z2 / (4 * count**2))) ** 0.5
    return (centre - half) / (1 + z2 / count), (centre + half) / (1 + z2 / count)


def test_a_share_never_counts_more_points_than_there_are():
    """Groups that are more alike than chance makes them: 19 of 20 have exactly a half."""
    inside = torch.arange(200) % 10 < 5
    inside[5] = True
    estimate = iv.share_estimate(inside, [i // 10 for i in range(200)])
    assert (estimate.low, estimate.high) == pytest.approx(wilson(101 / 200, 200, 19), rel=1e-9)


def test_a_share_that_is_the_same_in_every_group_counts_its_groups():
    estimate = iv.share_estimate(torch.arange(60) % 2 < 1, [i // 2 for i in range(60)])
    assert (estimate.low, estimate.high) == pytest.approx(wilson(0.5, 30, 29), rel=1e-9)
