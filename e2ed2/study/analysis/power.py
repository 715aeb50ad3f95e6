"""Before a study: how often a number of raters and pairs would show a preference, in closed form."""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import nct

from e2ed2.evaluation.metrics.intervals import t_quantile
from e2ed2.study.analysis.crossed import LEAST
from e2ed2.system.drawing.markdown import markdown_table
from e2ed2.system.errors import UserError, check_range


@dataclass(frozen=True)
class Assumed:
    """What is assumed of a study; a pilot's report gives the last three.

    Attributes:
        preference: of the better model, wins and half of the ties, 0.5 to 1. ties: share of votes.
        rater_share, prompt_share: of a vote's variance, what lies between raters and between prompts.
    """

    preference: float
    ties: float
    rater_share: float
    prompt_share: float

    def __post_init__(self) -> None:
        if not 0.5 < self.preference < 1:
            raise UserError(f"--preference {self.preference}: must lie between 0.5 and 1, neither of them")
        if not 0 <= self.ties <= 2 * (1 - self.preference):
            most = 2 * (1 - self.preference)
            raise UserError(f"--ties {self.ties}: must be 0 to {most:g} at a preference of {self.preference}")
        if not (self.rater_share >= 0 and self.prompt_share >= 0 and self.rater_share + self.prompt_share < 1):
            given = f"--rater-share {self.rater_share} --prompt-share {self.prompt_share}"
            raise UserError(f"{given}: must be 0 or more, in sum below 1")


def power(assumed: Assumed, raters: int, prompts: int) -> float:
    """How often the 95% interval of such a study, every rater on every prompt, would lie on the right side of 0.5.

    Raises:
        UserError: fewer than three raters or prompts.
    """
    check_range("raters", raters, LEAST, 10**6)
    check_range("prompts", prompts, LEAST, 10**6)
    # A vote counts 1, 1/2 or 0: its mean is the preference, its variance:
    variance = assumed.preference * (1 - assumed.preference) - assumed.ties / 4
    rest = variance * (1 - assumed.rater_share - assumed.prompt_share) / (raters * prompts)
    of_raters, of_prompts = variance * assumed.rater_share / raters, variance * assumed.prompt_share / prompts
    whole = of_raters + of_prompts + rest
    if whole == 0:
        return 1.0
    squares = (of_raters + rest, raters - 1), (of_prompts + rest, prompts - 1), (rest, (raters - 1) * (prompts - 1))
    degrees = whole**2 / sum(square**2 / free for square, free in squares)
    return float(nct.sf(t_quantile(degrees), degrees, (assumed.preference - 0.5) / whole**0.5))


def power_table(assumed: Assumed, raters: Sequence[int], prompts: Sequence[int]) -> str:
    """Markdown: a row for each number of raters, a column for each number of prompts."""
    rows = [[f"{count}", *(f"{power(assumed, count, columns):.0%}" for columns in prompts)] for count in raters]
    return markdown_table(["raters", *(f"{count} prompts" for count in prompts)], rows)
