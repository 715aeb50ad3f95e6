"""Agreement, repeats, checks, sides and time, by hand."""

import pytest

from e2ed2.study.analysis.agreement import alpha
from e2ed2.study.analysis.reliability import Rater, raters_of, seconds_of, side_bias
from tests.study.analysis.test_preferences import of


def test_agreement_is_on_models_not_on_sides():
    agree = [of("ann", p, "left", *m) for p, m in (("p", "ab"), ("q", "ba"), ("r", "ab"))]
    agree += [of("bob", p, "right", *m) for p, m in (("p", "ba"), ("q", "ab"), ("r", "ba"))]
    assert alpha(agree) == pytest.approx(1)
    differ = [of("ann", p, choice) for p, choice in zip("pqrs", ["left", "right"] * 2, strict=True)]
    differ += [of("bob", p, choice) for p, choice in zip("pqrs", ["right", "left"] * 2, strict=True)]
    assert alpha(differ) == pytest.approx(-0.75), "observed 1, expected 4 / 7"


def test_a_tie_is_between_win_and_loss():
    near = [of("ann", p, "left") for p in "pq"] + [of("ann", "r", "right")]
    near += [of("bob", "p", "left"), of("bob", "q", "none"), of("bob", "r", "right")]
    far = [*near[:-2], of("bob", "q", "right"), near[-1]]
    assert alpha(near) > alpha(far)


@pytest.mark.parametrize(
    "votes",
    [
        [of("ann", p, "left") for p in "pqr"],  # one rater
        [of(rater, p, "left") for rater in "xyz" for p in "pqr"],  # all the same
        [of("ann", "p", "left"), of("bob", "q", "right")],  # no pair in common
        [of("ann", "p", "left"), of("bob", "p", "left"), of("bob", "q", "right")],  # in common all the same
    ],
)
def test_there_is_no_agreement_to_tell(votes):
    assert alpha(votes) is None


def test_a_rater_by_hand():
    votes = [
        of("ann", "p", "left", seconds=1), of("ann", "q", "none", seconds=2), of("ann", "r", "right", seconds=9),
        of("ann", "s", "left", seconds=4),
        of("ann", "p", "right", "b", "a", pair="p2", kind="repeat", repeat_of="p a b"),
        of("ann", "q", "left", pair="q2", kind="repeat", repeat_of="q a b"),
        of("ann", "z", "left", pair="z2", kind="repeat", repeat_of="z a b"),  # the first was not decided yet
        of("ann", "c", "left", "a", "a", kind="check", expected="left"),
        of("ann", "d", "none", "a", "a", kind="check", expected="left"),
        of("bob", "t", "left", kind="practice"),
    ]  # fmt: skip
    ann, bob = raters_of(votes)
    assert ann == Rater("ann", "artist", 4, 2, 1, 2, 1, 2 / 3, 1 / 4, 3.0) and ann.is_careless
    assert bob == Rater("bob", "artist", 0, 0, 0, 0, 0, None, None, None) and not bob.is_careless
    assert seconds_of(votes[:4]) == (1.75, 3.0, 5.25)
    assert side_bias(votes[:4]).value == pytest.approx(2 / 3) and side_bias(votes[1:2]) is None
