"""Distances and overlaps against loops, closed forms and known coverage."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch

from e2ed2.evaluation.metrics import distribution as dist
from e2ed2.evaluation.metrics import neighbourhoods as near
from e2ed2.system.errors import UserError


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel_distance_by_loop(x, y):
    def k(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    def within(z):
        pairs = [k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]
        return sum(pairs) / len(pairs)

    cross = [k(a, b) for a in x for b in y]
    return within(x) + within(y) - 2 * sum(cross) / len(cross)


def frechet_by_sqrtm(x, y):
    x, y = x.numpy(), y.numpy()
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(cov_x @ cov_y).real
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y - 2 * root)


def jackknife_by_loop(statistic, x, y, x_labels, y_labels):
    """Half-width of the interval, each label of either set left out in turn and everything recomputed."""

    def replicates(labels, without):
        labels = np.array(labels)
        return np.array([without(torch.from_numpy(labels != label)) for label in np.unique(labels)])

    sides = [
        replicates(x_labels, lambda keep: statistic(x[keep], y)),
        replicates(y_labels, lambda keep: statistic(x, y[keep])),
    ]
    variances = [((r - r.mean()) ** 2).sum() * (len(r) - 1) / len(r) for r in sides]
    degrees = sum(variances) ** 2 / sum(v**2 / (len(r) - 1) for v, r in zip(variances, sides, strict=True))
    return scipy.stats.t.ppf(0.975, degrees) * sum(variances) ** 0.5


def test_kernel_distance_equals_the_double_loop():
    x, y = normal(13, 6, seed=1), normal(9, 6, seed=2) + 0.5
    assert dist.kernel_distance(x, y).value == pytest.approx(kernel_distance_by_loop(x, y), abs=1e-8)


def test_kernel_distance_is_the_same_in_row_blocks(monkeypatch):
    x, y = normal(13, 6, seed=1), normal(9, 6, seed=2)
    whole = dist.kernel_distance(x, y, [i // 2 for i in range(13)])
    monkeypatch.setattr(dist, "ROW_BLOCK", 4)
    blocks = dist.kernel_distance(x, y, [i // 2 for i in range(13)])
    assert (blocks.value, blocks.low) == pytest.approx((whole.value, whole.low), abs=1e-12)


def test_kernel_distance_interval_equals_a_jackknife_that_recomputes_everything():
    x, y = normal(14, 5, seed=3), normal(11, 5, seed=4) + 0.7
    x_groups, y_groups = [i // 2 for i in range(14)], [0, 0, 0, 1, 2, 3, 3, 4, 5, 6, 7]
    estimate = dist.kernel_distance(x, y, x_groups, y_groups)
    expected = jackknife_by_loop(kernel_distance_by_loop, x, y, x_groups, y_groups)
    assert estimate.high - estimate.value == pytest.approx(expected, rel=1e-3)  # t to 1e-3 at this size


def test_kernel_distance_is_unbiased():
    values = np.array(
        [dist.kernel_distance(normal(20, 4, seed=2 * i), normal(30, 4, seed=2 * i + 1)).value for i in range(400)]
    )
    assert abs(values.mean()) < 3 * values.std() / 20
    assert values.min() < 0  # unbiased at zero means sometimes negative


def test_frechet_distance_equals_the_matrix_square_root():
    x = normal(60, 8, seed=5) @ normal(8, 8, seed=6) + 3
    y = normal(90, 8, seed=7) @ normal(8, 8, seed=8)
    assert dist.frechet_distance(x, y).value == pytest.approx(frechet_by_sqrtm(x, y), rel=1e-5)


def test_frechet_distance_of_fewer_samples_than_dimensions():
    x, y = normal(12, 30, seed=9), normal(16, 30, seed=10) * 2 + 1
    rows_x, rows_y = (x - x.mean(0)) / 11**0.5, (y - y.mean(0)) / 15**0.5
    overlap = torch.linalg.matrix_norm(rows_x @ rows_y.T, "nuc")
    expected = (x.mean(0) - y.mean(0)).square().sum() + rows_x.square().sum() + rows_y.square().sum() - 2 * overlap
    assert dist.frechet_distance(x, y).value == pytest.approx(float(expected), rel=1e-6)


def test_frechet_distance_of_two_gaussians_in_closed_form():
    """Samples with exactly these moments: |mu|^2 + sum (sqrt a - sqrt b)^2 for diagonal covariances a, b."""

    def with_moments(mean, variances, seed):
        z = normal(50, len(mean), seed=seed)
        z = torch.linalg.qr(z - z.mean(0)).Q * 49**0.5
        return z * torch.tensor(variances).sqrt() + torch.tensor(mean)

    x = with_moments([1.0, 2.0, 0.0], [4.0, 1.0, 9.0], 11)
    y = with_moments([0.0, 0.0, 0.0], [1.0, 1.0, 0.25], 12)
    assert dist.frechet_distance(x, y).value == pytest.approx(5 + 1 + 0 + 6.25, rel=1e-9)


def test_frechet_interval_equals_a_jackknife_that_recomputes_everything():
    x, y = normal(30, 4, seed=13) + 1, normal(24, 4, seed=14)
    x_groups, y_groups = [i // 5 for i in range(30)], [i // 3 for i in range(24)]  # under ten: blocks are groups
    estimate = dist.frechet_distance(x, y, x_groups, y_groups)
    expected = jackknife_by_loop(frechet_by_sqrtm, x, y, x_groups, y_groups)
    assert estimate.high - estimate.value == pytest.approx(expected, rel=1e-3)


def test_blocks_never_split_a_group():
    group = torch.tensor([i // 3 for i in range(99)])
    blocks = dist.deal_blocks(group)
    assert all(len(blocks[group == g].unique()) == 1 for g in range(33))
    assert blocks.bincount().tolist() == [12, 12, 12] + [9] * 7


def test_kernel_interval_covers_the_truth_though_samples_share_captions():
    """One dimension: the kernel compares three moments, so the distance of two Gaussians is known."""
    mean, num_captions = 1.0, 60
    truth = (mean**3 + 3 * mean) ** 2 + 3 * (mean**2) ** 2 + 3 * mean**2
    captions = [i // 2 for i in range(2 * num_captions)]
    hits = 0
    for draw in range(200):
        z = normal(4 * num_captions, 1, seed=100 + draw)
        x = mean + (z[:num_captions].repeat_interleave(2, 0) + z[num_captions : 3 * num_captions]) / 2**0.5
        estimate = dist.kernel_distance(x, normal(150, 1, seed=900 + draw), captions)
        hits += estimate.low <= truth <= estimate.high
    assert 0.89 <= hits / 200 <= 0.99  # the third moment is skewed: a little under 95% is expected


@pytest.mark.parametrize("metric", [dist.kernel_distance, dist.frechet_distance, near.precision, near.coverage])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_features_are_refused_by_number(metric, value):
    x = normal(20, 3)
    x[7, 1] = value
    with pytest.raises(UserError, match="generated features of image 7 are not finite"):
        metric(x, normal(20, 3))
    with pytest.raises(UserError, match="reference features of image 7 are not finite"):
        metric(normal(20, 3), x)


def test_cmmd_kernel_equals_the_double_loop():
    x, y = normal(12, 6, seed=25), normal(15, 6, seed=26) + 1

    def k(a, b):
        return math.exp(-float((a - b).square().sum()) / 200)

    within = [sum(k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j) for z in (x, y)]
    cross = sum(k(a, b) for a in x for b in y)
    expected = within[0] / (12 * 11) + within[1] / (15 * 14) - 2 * cross / (12 * 15)
    assert dist.kernel_distance(x, y, kernel=dist.gaussian_kernel).value == pytest.approx(expected, rel=1e-9)


def test_groups_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="3 group names for 20 images"):
        dist.kernel_distance(normal(20, 3), normal(20, 3), ["a", "b", "c"])
    with pytest.raises(UserError, match="of one group"):
        dist.kernel_distance(normal(20, 3), normal(20, 3), ["a"] * 20)
    with pytest.raises(UserError, match=r"shape \[20, 4\]"):
        dist.kernel_distance(normal(20, 3), normal(20, 4))


@pytest.mark.parametrize(
    ("num_x", "num_y", "width", "error"),
    [(90, 120, 8, 1e-9), (9, 120, 20, 1e-6), (90, 12, 20, 1e-6), (9, 12, 20, 1e-6)],
)
def test_frechet_equals_the_matrix_square_root_and_its_replicates_those_of_fewer_rows(num_x, num_y, width, error):
    """As pytorch-fid and clean-fid compute it, with fewer and with more images than features, each block left out."""
    generator = torch.Generator().manual_seed(5)
    x, y = (torch.randn(n, width, generator=generator, dtype=torch.float64) + 3 for n in (num_x, num_y))

    def expected(x, y):
        cov_x, cov_y = (np.cov(s.numpy(), rowvar=False) for s in (x, y))
        root = scipy.linalg.sqrtm(cov_x @ cov_y).real
        return float((x.mean(0) - y.mean(0)).square().sum()) + np.trace(cov_x + cov_y - 2 * root)

    found, captions = dist.frechet_distance(x, y, [i // 3 for i in range(num_x)]), torch.arange(num_x) // 3
    assert found.value == pytest.approx(expected(x, y), rel=error)
    blocks = dist.deal_blocks(captions)
    replicates = [expected(x[blocks != b], y) for b in range(int(blocks.max()) + 1)]
    assert found.without[0].tolist() == pytest.approx(replicates, rel=error)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_frechet_does_not_depend_on_the_chunks(monkeypatch, rows):
    generator = torch.Generator().manual_seed(6)
    x, y = (torch.randn(n, 8, generator=generator, dtype=torch.float64) for n in (90, 120))
    whole = dist.frechet_distance(x, y)
    monkeypatch.setattr(dist, "_SUM_BLOCK", rows)
    assert dist.frechet_distance(x, y).to_json() == pytest.approx(whole.to_json(), rel=1e-9)


@pytest.mark.parametrize(("groups", "blocks"), [(4, 4), (10, 10), (25, 10)])
def test_there_are_ten_blocks_or_as_many_as_groups(groups, blocks):
    found = dist.deal_blocks(torch.arange(groups).repeat(3))
    assert found.unique().tolist() == list(range(blocks))
