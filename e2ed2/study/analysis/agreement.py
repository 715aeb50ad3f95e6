"""How well raters agree. Loads numpy alone, so that a server may ask."""

import warnings
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from e2ed2.study.votes import Vote


def alpha(main: Sequence[Vote]) -> float | None:
    """Krippendorff's alpha of main votes by one criterion, ordinal (loss, tie, win): 1 all agree, 0 as by chance.

    Returns:
        None where no pair has two raters, or all votes are the same.
    """
    import krippendorff

    rater, pair = numbered(vote.rater for vote in main), numbered(vote.pair for vote in main)
    scores = np.array([_score(vote) for vote in main])
    if len(np.unique(scores)) < 2 or np.bincount(pair).max() < 2:
        return None
    table = np.full((int(rater.max()) + 1, int(pair.max()) + 1), np.nan)
    table[rater, pair] = scores
    with warnings.catch_warnings():  # pairs of several raters may all have the same votes: it divides by zero
        warnings.simplefilter("ignore", RuntimeWarning)
        found = float(krippendorff.alpha(table, value_domain=[-1, 0, 1], level_of_measurement="ordinal"))
    return found if np.isfinite(found) else None


def chosen(vote: Vote) -> str:
    """The model that a vote is for, empty for a tie."""
    return {"left": vote.left, "right": vote.right, "none": ""}[vote.choice]


def numbered(names: Iterable[Hashable]) -> NDArray[np.int64]:
    """Names [N] as numbers by first appearance, [N]."""
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(name, len(number)) for name in names], dtype=np.int64)


def _score(vote: Vote) -> int:
    """1 for the model whose name comes first, -1 for the other, 0 for neither."""
    if vote.choice == "none":
        return 0
    return 1 if chosen(vote) == min(vote.left, vote.right) else -1
