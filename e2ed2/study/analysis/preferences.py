"""Win, tie and loss of one model against another, with intervals and sign tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from e2ed2.study.analysis.agreement import chosen, numbered
from e2ed2.study.analysis.crossed import Floats, Indices, Interval, share_interval, variance_shares
from e2ed2.study.votes import Vote


@dataclass(frozen=True)
class SignTest:
    """How many (prompts, or raters) had more votes for the first model than for the second, and how many fewer.

    Attributes:
        p: of as uneven a split or more where neither is preferred, two-sided, exact; 1 where there is no split.
    """

    first: int
    second: int
    p: float


@dataclass(frozen=True)
class Preference:
    """What votes say of two models.

    Attributes:
        win, tie, loss: shares of the first model's votes. preference: win with half of the ties, 0.5 for no difference.
        rater_share, prompt_share: of a vote's variance, what lies between raters and between prompts.
        by_prompt: for these raters, over prompts. by_rater: for these prompts, over raters.
    """

    votes: int
    raters: int
    prompts: int
    win: Interval
    tie: Interval
    loss: Interval
    preference: Interval
    rater_share: float | None
    prompt_share: float | None
    by_prompt: SignTest
    by_rater: SignTest


def compare_models(main: Sequence[Vote], first: str, second: str) -> Preference | None:
    """Those of main votes by one criterion that are on two models; None where there are none."""
    own = [vote for vote in main if {vote.left, vote.right} == {first, second}]
    if not own:
        return None
    scores = np.array([{first: 1, second: -1, "": 0}[chosen(vote)] for vote in own])
    return preference(scores, numbered(vote.rater for vote in own), numbered(vote.prompt for vote in own))


def preference(scores: Indices, rater: Indices, prompt: Indices) -> Preference:
    """What scores [N] say: 1 for the first model, -1 for the second, 0 for neither; `rater`, `prompt`: [N], from 0."""

    def share(values: Floats) -> Interval:
        return share_interval(values.astype(np.float64), rater, prompt)

    shares = variance_shares((scores + 1) / 2, rater, prompt) or (None, None)
    return Preference(
        votes=len(scores),
        raters=int(rater.max()) + 1,
        prompts=int(prompt.max()) + 1,
        win=share(scores == 1),
        tie=share(scores == 0),
        loss=share(scores == -1),
        preference=share((scores + 1) / 2),
        rater_share=shares[0],
        prompt_share=shares[1],
        by_prompt=_sign_test(np.bincount(prompt, scores)),
        by_rater=_sign_test(np.bincount(rater, scores)),
    )


def _sign_test(balances: NDArray[Any]) -> SignTest:
    first, second = int((balances > 0).sum()), int((balances < 0).sum())
    split = first + second
    return SignTest(first, second, float(binomtest(first, split).pvalue) if split else 1.0)
