"""Intervals over raters and prompts: the textbook's variance of a whole table, and the truth held as often as said."""

from collections import Counter

import numpy as np
import pytest
import scipy.stats

from e2ed2.study.analysis.crossed import Interval, crossed_variance, share_interval, variance_shares
from e2ed2.study.analysis.preferences import numbered, preference
from e2ed2.study.analysis.simulate import Population, draw_scores

CLUSTERED = Population({"first": 0.3, "second": 0.0})  # raters 5%, prompts 15% of a vote's variance


def whole(raters: int, prompts: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of a table in which each rater sees each prompt once."""
    return np.divmod(np.arange(raters * prompts), prompts)


def test_the_variance_of_a_whole_table_is_that_of_the_analysis_of_variance():
    table = np.random.default_rng(0).normal(size=(4, 6)) + np.arange(4)[:, None] + np.arange(6)
    mean, of_rater, of_prompt = table.mean(), table.mean(axis=1), table.mean(axis=0)
    raters = 6 * sum((m - mean) ** 2 for m in of_rater) / 3
    prompts = 4 * sum((m - mean) ** 2 for m in of_prompt) / 5
    rest = sum((table[i, j] - of_rater[i] - of_prompt[j] + mean) ** 2 for i in range(4) for j in range(6)) / 15
    variance, degrees = crossed_variance((table.ravel() - mean) / 24, *whole(4, 6))
    assert variance == pytest.approx((raters + prompts - rest) / 24)
    assert degrees == pytest.approx((raters + prompts - rest) ** 2 / (raters**2 / 3 + prompts**2 / 5 + rest**2 / 15))
    shares = (raters - rest) / 6, (prompts - rest) / 4
    total = sum(shares) + rest
    assert variance_shares(table.ravel(), *whole(4, 6)) == pytest.approx([share / total for share in shares])


def test_raters_alone_differ_the_interval_is_students():
    """All of a rater's votes are the same: as many figures as raters, the variance of their mean."""
    of_rater = np.array([0.1, 0.4, 0.3, 0.8, 0.5])
    rater, prompt = whole(5, 30)
    variance, degrees = crossed_variance((of_rater[rater] - of_rater.mean()) / 150, rater, prompt)
    assert variance == pytest.approx(scipy.stats.sem(of_rater) ** 2) and degrees == pytest.approx(4)


def test_the_order_of_votes_does_not_matter():
    scores, rater, prompt = draw_scores(CLUSTERED, 6, 20, np.random.default_rng(0))
    order = np.random.default_rng(1).permutation(120)
    one, other = ([s == 1, r, p] for s, r, p in ((scores, rater, prompt), (scores[order], rater[order], prompt[order])))
    a, b = share_interval(one[0].astype(float), *one[1:]), share_interval(other[0].astype(float), *other[1:])
    assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))


@pytest.mark.parametrize(("raters", "prompts"), [(1, 50), (2, 50), (50, 2)])
def test_too_few_raters_or_prompts_have_no_interval(raters, prompts):
    rater, prompt = whole(raters, prompts)
    assert share_interval((prompt % 2).astype(float), rater, prompt) == Interval(0.5, None, None)
    assert variance_shares((prompt % 2).astype(float), rater, prompt) is None


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_votes_that_are_all_the_same_are_worth_as_many_as_there_are_raters(share):
    found = share_interval(np.full(3000, share), *whole(10, 300))
    z2 = scipy.stats.t.ppf(0.975, 9) ** 2
    inner = 1 / (1 + z2 / 10)  # Wilson's interval for 10 of 10
    assert (found.low, found.high) == pytest.approx((0, 1 - inner) if share == 0 else (inner, 1))
    assert variance_shares(np.full(3000, share), *whole(10, 300)) is None


def hits(population: Population, raters: int, prompts: int, studies: int, kept: float = 1.0) -> Counter[str]:
    """Of how many simulated studies the interval holds the truth. kept: share of the pairs that a rater sees."""
    win, tie, loss = population.shares("first", "second")
    truth = {"win": win, "tie": tie, "loss": loss, "preference": win + tie / 2}
    generator, found = np.random.default_rng(23), Counter[str]()
    for _ in range(studies):
        scores, rater, prompt = draw_scores(population, raters, prompts, generator)
        seen = generator.random(len(scores)) < kept
        study = preference(scores[seen], rater[seen], numbered(prompt[seen].tolist()))
        for name, value in truth.items():
            low, high = getattr(study, name).limits
            found[name] += low <= value <= high
    return found


def test_an_interval_that_took_votes_for_independent_would_miss_the_truth():
    """What makes the next test one that can fail."""
    generator, held = np.random.default_rng(0), 0
    win, _, _ = CLUSTERED.shares("first", "second")
    for _ in range(200):
        scores, _, _ = draw_scores(CLUSTERED, 10, 300, generator)
        interval = scipy.stats.binomtest(int((scores == 1).sum()), 3000).proportion_ci(method="wilson")
        held += interval.low <= win <= interval.high
    assert held / 200 < 0.6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("population", "raters", "prompts", "kept"),
    [
        (CLUSTERED, 10, 300, 1.0),  # the paper's size
        (CLUSTERED, 10, 40, 1.0),
        (CLUSTERED, 5, 40, 1.0),
        (CLUSTERED, 3, 40, 1.0),
        (CLUSTERED, 10, 300, 0.3),
        (Population({"first": 1.2, "second": 0.0}, rater_spread=0.6, pull=0.3), 10, 100, 1.0),
    ],
)  # fmt: skip
def test_the_interval_of_the_preference_holds_it_in_930_to_975_of_1000_studies(population, raters, prompts, kept):
    found = hits(population, raters, prompts, 1000, kept)
    assert 930 <= found["preference"] <= 975, found
    assert all(930 <= found[name] <= 990 for name in ("win", "tie", "loss")), found  # ties: raters differ little there
