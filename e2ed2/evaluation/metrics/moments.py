"""Count, mean and second moment of features, summed in float64 as they come: any number of images in flat memory."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from e2ed2.evaluation.metrics.distribution import deal_blocks
from e2ed2.evaluation.metrics.intervals import Estimate, Groups, group_index, jackknife_estimate
from e2ed2.system.errors import UserError

_ROWS = 1024  # features summed at a time


@dataclass(frozen=True)
class Moments:
    """Sums over each of B blocks of images, so that any block can be left out.

    Attributes:
        count: [B]; total: [B, D]; outer: sum of x x^T, [B, D, D]; all float64.
    """

    count: Tensor
    total: Tensor
    outer: Tensor

    def gaussian(self, without: int | None = None) -> tuple[Tensor, Tensor]:
        """(mean [D], covariance [D, D]) of all images but those of one block."""
        kept = [b for b in range(len(self.count)) if b != without]
        count, mean = self.count[kept].sum(), self.total[kept].sum(0) / self.count[kept].sum()
        return mean, (self.outer[kept].sum(0) - count * torch.outer(mean, mean)) / (count - 1)


def moments_of(features: Tensor, groups: Groups = None) -> Moments:
    """Moments of features [N, D], which may lie in a memory-mapped file; whole groups share a block."""
    block = deal_blocks(group_index(groups, len(features)))
    chunks = ((features[i : i + _ROWS], block[i : i + _ROWS]) for i in range(0, len(features), _ROWS))
    return summed(chunks, features.shape[1], int(block.max()) + 1)


def summed(chunks: Iterable[tuple[Tensor, Tensor]], dim: int, num_blocks: int) -> Moments:
    """Moments of a stream of (features [n, D], the block of each [n])."""
    count = torch.zeros(num_blocks, dtype=torch.float64)
    total = torch.zeros(num_blocks, dim, dtype=torch.float64)
    outer = torch.zeros(num_blocks, dim, dim, dtype=torch.float64)
    for features, block in chunks:
        for b in block.unique().tolist():
            rows = features[block == b].double()
            count[b] += len(rows)
            total[b] += rows.sum(0)
            outer[b].addmm_(rows.T, rows)
    return Moments(count, total, outer)


def frechet_from_moments(x: Moments, y: Moments) -> Estimate:
    """`distribution.frechet_distance` from sums alone: the same figure and the same interval.

    Raises:
        UserError: features of different widths.
    """
    if x.total.shape[1] != y.total.shape[1]:
        raise UserError(f"features are {x.total.shape[1]} and {y.total.shape[1]} wide: measure both in one network")
    without_x = _distances_without(x, y)
    without_y = _distances_without(y, x)
    return jackknife_estimate(without_x[0], without_x[1:], without_y[1:])


def _distances_without(x: Moments, y: Moments) -> Tensor:
    """The distance of all x to y, then with each block of x left out, [1 + B]."""
    mean_y, covariance_y = y.gaussian()
    values, vectors = torch.linalg.eigh(covariance_y)
    root = vectors * values.clamp_min(0).sqrt()  # root root^T = covariance_y
    distances = []
    for without in (None, *range(len(x.count))):
        mean, covariance = x.gaussian(without)
        overlap = torch.linalg.eigvalsh(root.T @ covariance @ root).clamp_min(0).sqrt().sum()
        distances.append((mean - mean_y).square().sum() + covariance.trace() + covariance_y.trace() - 2 * overlap)
    return torch.stack(distances)
