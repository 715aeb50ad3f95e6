"""How far votes can be trusted: agreement of raters, repeated pairs, attention checks, time, sides."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from e2ed2.study.analysis.agreement import chosen, numbered
from e2ed2.study.analysis.crossed import Interval, share_interval
from e2ed2.study.votes import Vote

MOST_FAILED = 0.25  # of a rater's checks; one who chooses by chance fails two thirds of them


@dataclass(frozen=True)
class Rater:
    """One rater.

    Attributes:
        votes: on main pairs. failed: of `checks`. same: of `repeats` those with the first answer, a model or neither.
        left: share of left among decisions for a side, None where there are none. ties: share of main votes.
        seconds: median of a main vote.
    """

    name: str
    group: str
    votes: int
    checks: int
    failed: int
    repeats: int
    same: int
    left: float | None
    ties: float | None
    seconds: float | None

    @property
    def is_careless(self) -> bool:
        """Whether more than `MOST_FAILED` of the checks were failed."""
        return self.failed > MOST_FAILED * self.checks


def raters_of(votes: Sequence[Vote]) -> list[Rater]:
    """Every rater of the table, by name."""
    by_name: dict[str, list[Vote]] = {}
    for vote in votes:
        by_name.setdefault(vote.rater, []).append(vote)
    return [_rater(own) for _, own in sorted(by_name.items())]


def side_bias(main: Sequence[Vote]) -> Interval | None:
    """Share of left among votes for a side, None without; sides are drawn by lot, so that 0.5 is no bias."""
    own = [vote for vote in main if vote.choice != "none"]
    if not own:
        return None
    is_left = np.array([vote.choice == "left" for vote in own], dtype=np.float64)
    return share_interval(is_left, numbered(vote.rater for vote in own), numbered(vote.prompt for vote in own))


def seconds_of(votes: Sequence[Vote]) -> tuple[float, float, float]:
    """First quartile, median and third quartile of the time of a vote; there must be one."""
    low, middle, high = np.quantile([vote.seconds for vote in votes], (0.25, 0.5, 0.75))
    return float(low), float(middle), float(high)


def _rater(votes: Sequence[Vote]) -> Rater:
    main = [vote for vote in votes if vote.kind == "main"]
    checks = [vote for vote in votes if vote.kind == "check"]
    before = {(vote.pair, vote.criterion): vote for vote in main}
    repeats = [
        (vote, first) for vote in votes
        if vote.kind == "repeat" and (first := before.get((vote.repeat_of, vote.criterion)))
    ]  # fmt: skip
    decided = [vote for vote in main if vote.choice != "none"]
    return Rater(
        name=votes[0].rater,
        group=votes[0].group,
        votes=len(main),
        checks=len(checks),
        failed=sum(vote.choice != vote.expected for vote in checks),
        repeats=len(repeats),
        same=sum(chosen(vote) == chosen(first) for vote, first in repeats),
        left=sum(vote.choice == "left" for vote in decided) / len(decided) if decided else None,
        ties=1 - len(decided) / len(main) if main else None,
        seconds=median(vote.seconds for vote in main) if main else None,
    )
