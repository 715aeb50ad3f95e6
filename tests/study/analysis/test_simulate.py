"""Simulated raters choose as the closed form says, and the same however they are asked."""

import numpy as np
import pytest

from e2ed2.study.analysis.simulate import Population, choose, draw_scores, simulate_votes
from e2ed2.study.votes import CRITERIA, check_votes

POPULATION = Population({"a": 0.5, "b": 0.0}, pull=0.4, by_criterion={"quality": -1.0})


def test_shares_are_the_closed_forms():
    scores, _, _ = draw_scores(POPULATION, 1000, 1000, np.random.default_rng(0))
    assert [(scores == score).mean() for score in (1, 0, -1)] == pytest.approx(POPULATION.shares("a", "b"), abs=0.02)
    assert POPULATION.shares("a", "b", "quality") == pytest.approx(POPULATION.shares("b", "a"))


def test_the_votes_of_a_study_are_in_its_shares():
    votes = simulate_votes(
        POPULATION, raters={f"r{i}": "x" for i in range(30)}, prompts={f"p{i}": "" for i in range(40)}, careless=["r0"]
    )
    check_votes(votes, str)
    assert len(votes) == 30 * 40 * len(CRITERIA)
    careful = [vote for vote in votes if vote.rater != "r0"]
    wins = {c: np.mean([getattr(v, v.choice, "") == "a" for v in careful if v.criterion == c]) for c in CRITERIA}
    (high, *_), (low, *_) = POPULATION.shares("a", "b"), POPULATION.shares("a", "b", "quality")
    for criterion in ("alignment", "faithfulness"):  # what these raters and prompts add is the same by all criteria
        assert wins[criterion] - wins["quality"] == pytest.approx(high - low, abs=0.05)
    left = np.mean([vote.choice == "left" for vote in careful if vote.choice != "none"])
    assert left == pytest.approx(0.65, abs=0.06), "the pull to the left"


def test_a_rater_chooses_the_same_in_whatever_order_asked():
    asked = [
        {"rater": rater, "pair": f"{prompt}1", "prompt": prompt, "criterion": "quality", "left": "a", "right": "b"}
        for rater in "xyz"
        for prompt in "pqrst"
    ]
    first = [choose(POPULATION, 7, **names) for names in asked]
    assert first == [choose(POPULATION, 7, **names) for names in reversed(asked)][::-1]
    assert set(first) == {"left", "right", "none"} and first != [choose(POPULATION, 8, **names) for names in asked]
