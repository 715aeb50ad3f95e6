"""Estimates with 95% intervals, from leaving out each group of images once (Efron & Stein 1981).

`groups` name each value's caption (or emoji): values of one group depend on each other, so an interval leaves out
whole groups, never single ones. None makes every value its own group. All sums are float64.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from scipy.special import stdtrit
from torch import Tensor

from e2ed2.system.errors import UserError

Groups = Sequence[Hashable] | None


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95% interval.

    Attributes:
        without: for each independent source of error, the figure with each of its G groups left out, [G]; of a
            bootstrap its replicates, so scaled that they vary as those do.
    """

    value: float
    low: float
    high: float
    without: tuple[Tensor, ...] = field(default=(), compare=False, repr=False)

    def to_json(self) -> dict[str, float]:
        """Value and interval."""
        return {"value": self.value, "low": self.low, "high": self.high}


def mean_estimate(values: Tensor, groups: Groups = None) -> Estimate:
    """Mean of values [N]; the interval from leaving out each group once."""
    values = values.double()
    return jackknife_estimate(values.mean(), means_without(values, group_index(groups, len(values))))


def ratio_estimate(x: Tensor, y: Tensor, x_groups: Groups = None, y_groups: Groups = None) -> Estimate:
    """Mean of x [N] over mean of y [M]; the interval from leaving out each group of either once."""
    x, y = x.double(), y.double()
    without_x = means_without(x, group_index(x_groups, len(x))) / y.mean()
    without_y = x.mean() / means_without(y, group_index(y_groups, len(y)))
    return jackknife_estimate(x.mean() / y.mean(), without_x, without_y)


def share_estimate(inside: Tensor, groups: Groups = None, resampled: Tensor | None = None) -> Estimate:
    """Share of true among bool [N], with Wilson's interval at the effective number of independent points.

    That number is p (1 - p) / variance, the variance from leaving out each group once. Where either
    is zero it is the number of groups, so that a share of 0 or 1 still has an interval.

    Args:
        resampled: the share in bootstrap resamples of another, independent source of error, [R].
    """
    group = group_index(groups, len(inside))
    share = float(inside.double().mean())
    without = [means_without(inside.double(), group)]
    if resampled is not None:
        without.append(_as_left_out(resampled.double()))
    variance, degrees = _sum_of_variances(without)
    of_one = share * (1 - share)  # variance of a single point
    if variance > 0 and of_one > 0:
        effective = min(of_one / variance, len(inside))
    else:
        effective, degrees = float(group.max() + 1), float(group.max())
    return Estimate(share, *wilson_interval(share, effective, degrees), tuple(without))


def wilson_interval(share: float, effective: float, degrees: float) -> tuple[float, float]:
    """Wilson's 95% interval of a share: from a number of independent points, by Student's t in the normal's place."""
    z2 = t_quantile(degrees) ** 2 / effective
    centre = (share + z2 / 2) / (1 + z2)
    half = (share * (1 - share) * z2 + z2**2 / 4) ** 0.5 / (1 + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def jackknife_estimate(value: Tensor, *without: Tensor) -> Estimate:
    """A symmetric interval from one or more independent sources of error (Efron & Stein 1981).

    Args:
        value: the figure, scalar.
        without: for each source, the figure with each of its G groups left out, [G].
    """
    variance, degrees = _sum_of_variances(without)
    half = t_quantile(degrees) * variance**0.5 if variance > 0 else 0.0
    return Estimate(float(value), float(value) - half, float(value) + half, without)


def paired_difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b of one figure for two models that answered the same prompts and met the same reference.

    What both have in common (a hard caption, an odd reference image) cancels: each group is left out of both at once.

    Raises:
        UserError: the two do not come from the same groups.
    """
    sizes_a, sizes_b = [len(w) for w in a.without], [len(w) for w in b.without]
    if sizes_a != sizes_b or not sizes_a:
        raise UserError(f"groups {sizes_a} and {sizes_b}: a paired difference needs the same prompts and reference")
    both = (torch.stack(pair) for pair in zip(a.without, b.without, strict=True))
    value = torch.tensor(a.value - b.value, dtype=torch.float64)
    return jackknife_estimate(value, *(one - other for one, other in both))


def _jackknife_variance(replicates: Tensor) -> tuple[float, int]:
    """(G - 1) / G times the sum of squared deviations of [G] replicates, and G."""
    count = len(replicates)
    return float((replicates - replicates.mean()).square().sum()) * (count - 1) / count, count


def _sum_of_variances(without: Sequence[Tensor]) -> tuple[float, float]:
    """The variances of independent sources added, and the degrees of freedom of their sum (Welch-Satterthwaite)."""
    variances, counts = zip(*(_jackknife_variance(replicates) for replicates in without), strict=True)
    shares = sum(v * v / (count - 1) for v, count in zip(variances, counts, strict=True))
    total = sum(variances)
    return total, total * total / shares if shares > 0 else 0.0


def _as_left_out(resampled: Tensor) -> Tensor:
    """Bootstrap replicates [R], drawn together so that as left-out ones they have the variance that they have."""
    mean, count = resampled.mean(), len(resampled)
    return mean + (resampled - mean) * count**0.5 / (count - 1)


def t_quantile(degrees: float) -> float:
    """97.5% point of Student's t."""
    return float(stdtrit(degrees, 0.975))


def group_index(groups: Groups, count: int) -> Tensor:
    """Groups [count] of any hashable kind as numbers 0 .. G-1 by first appearance, long [count]."""
    names = range(count) if groups is None else groups
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    if len(names) != count:
        raise UserError(f"{len(names)} group names for {count} images: one is needed for each image")
    if len(number) < 2:
        raise UserError(f"all {count} images are of one group ({names[0]!r}): an interval needs at least 2")
    return torch.tensor([number[name] for name in names])


def group_sums(values: Tensor, group: Tensor) -> Tensor:
    """Sum of values [N] over each group, float64 [G]."""
    sums = torch.zeros(int(group.max()) + 1, dtype=torch.float64)
    return sums.index_add_(0, group, values)


def means_without(values: Tensor, group: Tensor) -> Tensor:
    """Mean of values [N] with each group left out in turn, [G]."""
    left = len(values) - group.bincount()
    return (values.sum() - group_sums(values, group)) / left
