"""Overlaps of two sets of feature vectors by their neighbourhoods: who lies within whose k nearest.

Throughout, x [N, D] are features of generated samples and y [M, D] those of reference images, with groups as in
`distribution`. An interval is over both: which points were drawn (delete a group) and whose neighbourhoods there are
(a bootstrap of groups). For both the reach of a neighbourhood is that in the whole set: without a neighbour it would
grow, which makes the interval 1.5 to 1.8 times too wide; in a resample copies would be neighbours at distance zero.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from e2ed2.evaluation.metrics.distribution import ROW_BLOCK, checked, deal_blocks, row_by_row, squared_distances
from e2ed2.evaluation.metrics.intervals import (
    Estimate,
    Groups,
    group_index,
    jackknife_estimate,
    means_without,
    share_estimate,
)

NEAREST_K = 5  # the neighbourhood of precision, recall and coverage
RESAMPLES, MOST_BLOCKS = 200, 256  # of the bootstrap: draws, and parts that groups are dealt to
_SAME_IMAGE = 1e-4  # of their length: features nearer than that are of one image, up to rounding


def precision(
    x: Tensor, y: Tensor, x_groups: Groups = None, y_groups: Groups = None, k: int = NEAREST_K
) -> Estimate:
    """Share of x within the manifold of y: no further from some y_j than y_j's k-th nearest other y.

    Kynkaanniemi et al. 2019, arXiv:1904.06991, Eq. 1-2.
    """
    x, y = checked(x, y, at_least=2 * k)
    radii = _squared_radii(y, k)

    def is_held(rows: slice) -> Tensor:
        return squared_distances(x[rows], y) <= radii

    return _share_held(is_held, len(x), len(y), x_groups, y_groups)


def recall(x: Tensor, y: Tensor, x_groups: Groups = None, y_groups: Groups = None, k: int = NEAREST_K) -> Estimate:
    """Share of y within the manifold of x: `precision` with the roles exchanged."""
    return precision(y, x, y_groups, x_groups, k)


def density(x: Tensor, y: Tensor, x_groups: Groups = None, y_groups: Groups = None, k: int = NEAREST_K) -> Estimate:
    """How many balls of y, each up to its k-th nearest other y, a sample lies in, over k.

    Naeem et al. 2020, arXiv:2002.09797, Eq. 3; not bounded by 1.
    """
    x, y = checked(x, y, at_least=2 * k)
    radii, held = _squared_radii(y, k), y.new_zeros(len(y))

    def count(rows: Tensor) -> Tensor:
        inside = squared_distances(rows, y) <= radii
        held.add_(inside.sum(0))
        return inside.sum(1).double() / k

    counts = row_by_row(x, count)
    by_ball = held * len(y) / (k * len(x))
    x_group, y_group = group_index(x_groups, len(x)), group_index(y_groups, len(y))
    return jackknife_estimate(counts.mean(), means_without(counts, x_group), means_without(by_ball, y_group))


def coverage(x: Tensor, y: Tensor, x_groups: Groups = None, y_groups: Groups = None, k: int = NEAREST_K) -> Estimate:
    """Share of y whose ball, up to its k-th nearest other y, holds some x.

    Naeem et al. 2020, arXiv:2002.09797, Eq. 4. The balls are those of real images: outliers in x do not help.
    """
    x, y = checked(x, y, at_least=2 * k)
    radii = _squared_radii(y, k)[:, None]

    def holds(rows: slice) -> Tensor:
        return squared_distances(y[rows], x) <= radii[rows]

    return _share_held(holds, len(y), len(x), y_groups, x_groups)


def authenticity(x: Tensor, training: Tensor, groups: Groups = None) -> Estimate:
    """Share of samples that are no near copies of training images [T, D]. `groups` are those of x.

    A near copy lies closer to its nearest training image than any different training image does (Alaa et al. 2022,
    arXiv:2102.08921, Eq. 7; there a training image that occurs twice could not be copied).
    """
    ratios, _ = nearest_training(x, training)
    return share_estimate(ratios > 1, groups)


def nearest_training(x: Tensor, training: Tensor) -> tuple[Tensor, Tensor]:
    """Each sample's nearest training image: distance [N] over that image's own to the next different one; row [N]."""
    x, training = checked(x, training)
    nearest = [squared_distances(rows, training).min(1) for rows in x.split(ROW_BLOCK)]
    rows = torch.cat([n.indices for n in nearest])
    return (torch.cat([n.values for n in nearest]) / _squared_radii_to_others(training)[rows]).sqrt(), rows


def _share_held(
    is_held: Callable[[slice], Tensor], num_points: int, num_others: int, groups: Groups, other_groups: Groups
) -> Estimate:
    """Share of points that some of the others holds.

    Args:
        is_held: of some points by each of the others, bool [rows, num_others].
    """
    blocks = deal_blocks(group_index(other_groups, num_others), MOST_BLOCKS)
    num_blocks = int(blocks.max()) + 1
    generator = torch.Generator().manual_seed(0)  # the same for two models, whose difference is then paired
    drawn = torch.randint(num_blocks, (RESAMPLES, num_blocks), generator=generator)
    times = torch.stack([draw.bincount(minlength=num_blocks) for draw in drawn], 1).float()
    shares, held = torch.zeros(RESAMPLES, dtype=torch.float64), torch.zeros(num_points, dtype=torch.bool)
    for start in range(0, num_points, ROW_BLOCK):
        rows = slice(start, start + ROW_BLOCK)
        inside = is_held(rows).float()
        by_block = inside.new_zeros(len(inside), num_blocks).index_add_(1, blocks, inside).clamp_max(1)
        held[rows] = by_block.any(1)
        shares += (by_block @ times > 0).sum(0) / num_points
    return share_estimate(held, groups, shares)


def _squared_radii(points: Tensor, k: int) -> Tensor:
    """Squared distance of each point to its k-th nearest other point, [N]."""
    radii = points.new_empty(len(points))
    for start in range(0, len(points), ROW_BLOCK):
        rows = slice(start, start + ROW_BLOCK)
        squares = squared_distances(points[rows], points)
        squares.diagonal(start).fill_(torch.inf)
        radii[rows] = squares.kthvalue(k, dim=1).values
    return radii


def _squared_radii_to_others(points: Tensor) -> Tensor:
    """Squared distance of each point to the nearest that is not a copy of it, [N]; infinite where all are."""

    def of(rows: Tensor) -> Tensor:
        squares = squared_distances(rows, points)
        is_copy = squares <= _SAME_IMAGE**2 * rows.square().sum(1, keepdim=True)
        return squares.masked_fill(is_copy, torch.inf).amin(1)

    return row_by_row(points, of)
