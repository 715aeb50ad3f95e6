"""95% intervals of figures over raters and prompts, both of which are samples of more.

Votes of one rater depend on each other, and so do votes on one prompt. The variance of a mean over such a crossed
table is that of two-way random effects (Searle, Casella & McCulloch 1992, chapter 4): with the mean squares of raters,
prompts and what is left, (MS_raters + MS_prompts - MS_rest) / N, degrees of freedom after Satterthwaite (1946). Mean
squares come from the sums of each rater's and each prompt's residuals, as in cluster-robust variances (Cameron, Gelbach
& Miller 2011), so that raters need not see every prompt. `docs/study.md` has how often the intervals hold the truth,
beside those of bootstraps.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2ed2.evaluation.metrics.intervals import t_quantile, wilson_interval

LEAST = 3  # raters, and prompts: with two raters the intervals held the truth too seldom

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """A figure with its 95% interval; low and high are None where there are too few raters or prompts for one."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def limits(self) -> tuple[float, float] | None:
        """Low and high."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def crossed_variance(influence: Floats, rater: Indices, prompt: Indices) -> tuple[float, float] | None:
    """Variance of a figure that is a sum over votes, and its degrees of freedom.

    Args:
        influence: what each vote adds to the figure's error, [N]; they sum to zero. Of a mean: (value - mean) / N.
        rater, prompt: whose vote it is and on what, [N], numbered 0 .. R-1 and 0 .. P-1.
    Returns:
        None with fewer than `LEAST` raters or prompts.
    """
    found = _mean_squares(influence, rater, prompt)
    if found is None:
        return None
    parts, degrees = found
    # Where neither raters nor prompts differ the sum can fall below its parts, each of which is a variance too.
    variance = max(parts[0] + parts[1] - parts[2], parts[0], parts[1])
    if variance <= 0:
        return 0.0, float(degrees.min())
    return float(variance), float(max(variance**2 / (parts**2 / degrees).sum(), degrees.min()))


def variance_shares(values: Floats, rater: Indices, prompt: Indices) -> tuple[float, float] | None:
    """How much of a vote's variance lies between raters, and how much between prompts: estimates, 0 to 1.

    Returns:
        None with fewer than `LEAST` raters or prompts, or where all values, [N], are the same.
    """
    found = _mean_squares((values - values.mean()) / len(values), rater, prompt)
    if found is None or values.var() == 0:
        return None
    (of_raters, of_prompts, rest), _ = found
    between = max((of_raters - rest) * (int(rater.max()) + 1), 0), max((of_prompts - rest) * (int(prompt.max()) + 1), 0)
    total = sum(between) + rest * len(values)
    return float(between[0] / total), float(between[1] / total)


def share_interval(values: Floats, rater: Indices, prompt: Indices) -> Interval:
    """Mean of values in 0 to 1, [N], with Wilson's interval at the number of independent votes that its variance fits.

    Where all values are the same no variance can be seen: that number is then that of raters or prompts, the smaller.
    """
    share = float(values.mean())
    found = crossed_variance((values - share) / len(values), rater, prompt)
    if found is None:
        return Interval(share)
    variance, degrees = found
    spread = share * (1 - share)
    effective = spread / variance if variance > 1e-15 and spread > 0 else degrees + 1
    return Interval(share, *wilson_interval(share, effective, degrees))


def symmetric_interval(value: float, influence: Floats, rater: Indices, prompt: Indices) -> Interval:
    """A figure without bounds, with Student's interval; `influence` as in `crossed_variance`."""
    found = crossed_variance(influence, rater, prompt)
    if found is None:
        return Interval(value)
    half = t_quantile(found[1]) * found[0] ** 0.5
    return Interval(value, value - half, value + half)


def _mean_squares(influence: Floats, rater: Indices, prompt: Indices) -> tuple[Floats, Indices] | None:
    """Mean squares of raters, prompts and the rest, over N, [3], and their degrees of freedom, [3]."""
    raters, prompts = int(rater.max()) + 1, int(prompt.max()) + 1
    if min(raters, prompts) < LEAST:
        return None
    by_rater, by_prompt = np.bincount(rater, influence), np.bincount(prompt, influence)
    rest = influence - (by_rater / np.bincount(rater))[rater] - (by_prompt / np.bincount(prompt))[prompt]
    cells = np.bincount(rater * prompts + prompt, rest)
    degrees = np.array([raters - 1, prompts - 1, (raters - 1) * (prompts - 1)])
    sums = np.array([np.square(part).sum() for part in (by_rater, by_prompt, cells)])
    return sums * [raters, prompts, raters * prompts] / degrees, degrees
