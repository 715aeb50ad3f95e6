"""Distances between two sets of feature vectors, each with a 95% interval that suits it.

Throughout, x [N, D] are features of generated samples and y [M, D] those of reference images. `x_groups` and
`y_groups` name each row's caption (or emoji): rows of one group depend on each other, so an interval leaves
out whole groups, never single rows. None makes every row its own group. All sums are float64.

Why no bootstrap of images: a resample holds copies, and a copy is a perfect kernel match. Instead groups of either set
are left out, and the two variances added.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from e2ed2.evaluation.metrics.intervals import (
    Estimate,
    Groups,
    group_index,
    group_sums,
    jackknife_estimate,
    means_without,
)
from e2ed2.system.errors import UserError

FRECHET_BLOCKS = 10
CMMD_SIGMA = 10.0
SCORE_SPLIT = 5000  # images of a split of the inception score, as in guided-diffusion
TINY = 1e-38  # 0 log 0 is 0
_SUM_BLOCK = 1024  # rows that are summed at a time
ROW_BLOCK = 128  # rows of a pairwise matrix held at a time: 31 MB beside 30,000 images

Kernel = Callable[[Tensor, Tensor], Tensor]  # rows [N, D], rows [M, D] -> [N, M]


def cubic_kernel(a: Tensor, b: Tensor) -> Tensor:
    """(a.b / D + 1)^3, the kernel of KID (arXiv:1801.01401)."""
    k = a @ b.T / a.shape[1] + 1
    return k * k * k


def gaussian_kernel(a: Tensor, b: Tensor) -> Tensor:
    """exp(-|a - b|^2 / (2 sigma^2)) with sigma = 10, the kernel of CMMD (arXiv:2401.09603)."""
    return (squared_distances(a, b) / (-2 * CMMD_SIGMA**2)).exp()


def kernel_distance(
    x: Tensor, y: Tensor, x_groups: Groups = None, y_groups: Groups = None, kernel: Kernel = cubic_kernel
) -> Estimate:
    """Squared MMD, by default with kernel (x.y / D + 1)^3, unbiased (Binkowski et al. 2018, arXiv:1801.01401, Eq. 4).

    The U-statistic over all pairs, not a mean over random subsets; it may fall below zero. Pairs within a
    group count like others, as in KID. Every group is left out once, without new kernels: a sum changes by the
    group's own rows. Near zero, where the statistic is degenerate, the jackknife errs on the wide side.
    """
    x, y = checked(x, y)
    x_group, y_group = group_index(x_groups, len(x)), group_index(y_groups, len(y))
    x_mean, xmeans_without = _within_kernel(x, x_group, kernel)
    y_mean, ymeans_without = _within_kernel(y, y_group, kernel)
    by_x = row_by_row(x, lambda rows: kernel(rows, y).mean(1))
    by_y = row_by_row(y, lambda rows: kernel(rows, x).mean(1))
    return jackknife_estimate(
        x_mean + y_mean - 2 * by_x.mean(),
        xmeans_without + y_mean - 2 * means_without(by_x, x_group),
        x_mean + ymeans_without - 2 * means_without(by_y, y_group),
    )


def frechet_distance(x: Tensor, y: Tensor, x_groups: Groups = None, y_groups: Groups = None) -> Estimate:
    """Squared Frechet distance of two Gaussians, |mu_x - mu_y|^2 + Tr(S_x + S_y - 2 (S_x S_y)^(1/2))
    (Heusel et al. 2017, arXiv:1706.08500, Eq. 6).

    Biased upwards, the more the smaller the sample: compare only at equal N and M. The interval says how the
    figure varies at this N and M. Groups are dealt at random to ten blocks a side, each block left out once.

    The sets are read some rows at a time: of features in a mapped file any number fits in memory.
    """
    _check(x, y)
    x_blocks = deal_blocks(group_index(x_groups, len(x)))
    y_blocks = deal_blocks(group_index(y_groups, len(y)))
    mean_x, mean_y = _mean(x), _mean(y)
    value, *without_x = _frechet_without(x, x_blocks, mean_y, _covariance_root(y, mean_y))
    _, *without_y = _frechet_without(y, y_blocks, mean_x, _covariance_root(x, mean_x))
    return jackknife_estimate(value, torch.stack(without_x), torch.stack(without_y))


def frechet_to_gaussian(x: Tensor, mean: Tensor, covariance: Tensor, x_groups: Groups = None) -> Estimate:
    """`frechet_distance` to a Gaussian that is known: mean [D] and covariance [D, D] of a whole data set.

    The interval is over x alone.
    """
    _check(x, x)
    if mean.shape != x.shape[1:] or covariance.shape != 2 * x.shape[1:]:
        raise UserError(f"reference statistics are of {len(mean)} features, the samples' are {x.shape[1]}")
    root = _root(covariance.double())
    value, *without = _frechet_without(x, deal_blocks(group_index(x_groups, len(x))), mean.double(), root)
    return jackknife_estimate(value, torch.stack(without))


def inception_score(probabilities: Tensor) -> Estimate:
    """exp(E KL(p(y|x) || p(y))) of class probabilities [N, C], averaged over splits (Salimans et al. 2016,
    arXiv:1606.03498, Sec. 4).

    Samples come class by class: a fixed shuffle deals them to splits, and to ten blocks, each left out once.
    """
    order = torch.randperm(len(probabilities), generator=torch.Generator().manual_seed(0))
    shuffled = probabilities[order].double()

    def score(rows: Tensor) -> Tensor:
        scores = []
        for p in shuffled[rows].split(SCORE_SPLIT):
            divergence = (p * (p.clamp_min(TINY).log() - p.mean(0).clamp_min(TINY).log())).sum(1)
            scores.append(divergence.mean().exp())
        return torch.stack(scores).mean()

    every = torch.arange(len(shuffled))
    without = [score(every[every % FRECHET_BLOCKS != b]) for b in range(FRECHET_BLOCKS)]
    return jackknife_estimate(score(every), torch.stack(without))


def _check(x: Tensor, y: Tensor, at_least: int = 2) -> None:
    """Raise UserError when the sets are too few, unlike in width, or not finite."""
    for name, rows in (("generated", x), ("reference", y)):
        if rows.ndim != 2 or rows.shape[1] != x.shape[1]:
            raise UserError(f"{name} features have shape {list(rows.shape)}: both need [count, same width]")
        if len(rows) < at_least:
            raise UserError(f"{name} set has {len(rows)} images: this metric needs at least {at_least}")
        if not rows.isfinite().all():
            first = int((~rows.isfinite()).any(1).nonzero()[0])
            raise UserError(f"{name} features of image {first} are not finite: check the image or its model")


def checked(x: Tensor, y: Tensor, at_least: int = 2) -> tuple[Tensor, Tensor]:
    """Both sets in float64, or as `_check`."""
    _check(x, y, at_least)
    return x.double(), y.double()


def _within_kernel(x: Tensor, group: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Mean kernel over pairs i != j of x, and the same with each group left out in turn, [G]."""
    by_row, by_row_own = x.new_empty(2, len(x))
    for start in range(0, len(x), ROW_BLOCK):
        rows = slice(start, start + ROW_BLOCK)
        values = kernel(x[rows], x)
        values.diagonal(start).zero_()
        by_row[rows] = values.sum(1)
        by_row_own[rows] = values.mul_(group[rows, None] == group).sum(1)
    total, sums, own = by_row.sum(), group_sums(by_row, group), group_sums(by_row_own, group)
    left = len(x) - group.bincount()
    # a group's rows and its columns both go, and what they share goes once
    without = (total - 2 * sums + own) / (left * (left - 1))
    return total / (len(x) * (len(x) - 1)), without


def deal_blocks(group: Tensor, most: int = FRECHET_BLOCKS) -> Tensor:
    """Each row's block, 0 .. `most` - 1: whole groups dealt by a fixed shuffle, since captions come in some order."""
    num_groups = int(group.max()) + 1
    order = torch.randperm(num_groups, generator=torch.Generator().manual_seed(0))
    return (order % most)[group]


def _chunks(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some rows at a time, in float64."""
    for start in range(0, len(x), _SUM_BLOCK):
        rows = slice(start, start + _SUM_BLOCK)
        yield rows, x[rows].double()


def _mean(x: Tensor) -> Tensor:
    return torch.stack([rows.sum(0) for _, rows in _chunks(x)]).sum(0) / len(x)


def _covariance_root(x: Tensor, mean: Tensor) -> Tensor:
    """Some R [D, min(N, D)] with R R^T the covariance of x."""
    if len(x) <= x.shape[1]:
        return (x.double() - mean).T / (len(x) - 1) ** 0.5
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for _, rows in _chunks(x):
        covariance.addmm_((rows - mean).T, rows - mean)
    return _root(covariance / (len(x) - 1))


def _root(covariance: Tensor) -> Tensor:
    """R [D, D] with R R^T the covariance."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt()


def _frechet_without(x: Tensor, block: Tensor, mean_y: Tensor, root: Tensor) -> list[Tensor]:
    """The Frechet distance of all x to y, then with each block of x left out: 1 + blocks scalars.

    With S_y = R R^T, R the `root`, the eigenvalues of (S_x S_y)^(1/2) are the square roots of those of R^T S_x R. What
    is needed of each block of x is summed once, so that a replicate costs one symmetric eigenvalue problem.
    """
    mean, num_blocks = _mean(x), int(block.max()) + 1
    sums, squares = mean.new_zeros(num_blocks, len(mean)), mean.new_zeros(num_blocks)
    grams = mean.new_zeros(num_blocks, root.shape[1], root.shape[1])
    for rows, features in _chunks(x):
        for b in block[rows].unique().tolist():
            own = features[block[rows] == b] - mean
            sums[b] += own.sum(0)
            squares[b] += own.square().sum()
            projected = own @ root
            grams[b].addmm_(projected.T, projected)
    distances, counts, gram = [], block.bincount(), grams.sum(0)
    for b in range(-1, num_blocks):  # none is left out at -1
        kept = torch.arange(num_blocks) != b
        left = int(counts[kept].sum())
        shift = sums[kept].sum(0) / left  # the mean of what is left, seen from the mean of all
        moved = shift @ root
        inner = (gram if b < 0 else gram - grams[b]) - left * torch.outer(moved, moved)
        trace = (squares[kept].sum() - left * shift.square().sum()) / (left - 1)
        overlap = torch.linalg.eigvalsh(inner / (left - 1)).clamp_min(0).sqrt().sum()
        means = (mean + shift - mean_y).square().sum()
        distances.append(means + trace + root.square().sum() - 2 * overlap)
    return distances


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Of rows [N, D] to rows [M, D], [N, M]."""
    squares = a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T
    return squares.clamp_min(0)


def row_by_row(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """`function` of some rows of x [N, D] at a time -> [N].

    Into one tensor: results that are kept between two matrices of pairs would scatter those over ever more memory.
    """
    found: Tensor | None = None
    for start in range(0, len(x), ROW_BLOCK):
        part = function(x[start : start + ROW_BLOCK])
        found = part.new_empty(len(x)) if found is None else found
        found[start : start + len(part)] = part
    assert found is not None
    return found
