"""Win, tie and loss, counted by hand and by pandas; the sign test by its binomial."""

import io

import pandas
import pytest

from e2ed2.study.analysis.analyze import analyze
from e2ed2.study.analysis.preferences import SignTest, compare_models
from e2ed2.study.analysis.simulate import Population, simulate_votes
from e2ed2.study.votes import to_csv
from e2ed2.system.errors import UserError
from tests.study.test_votes import vote


def of(rater: str, prompt: str, choice: str, left: str = "a", right: str = "b", **changes: object):
    pair = f"{prompt} {min(left, right)} {max(left, right)}"
    row = {"rater": rater, "prompt": prompt, "pair": pair, "choice": choice, "left": left, "right": right}
    return vote(**{**row, **changes})


VOTES = [
    of("ann", "p", "left"), of("ann", "q", "left", "b", "a"), of("ann", "r", "none"), of("ann", "s", "left"),
    of("bob", "p", "right", "b", "a"), of("bob", "q", "none"), of("bob", "r", "right", "b", "a"),
    of("bob", "s", "left"),
    of("cid", "p", "left"), of("cid", "q", "right"), of("cid", "r", "none"), of("cid", "s", "right"),
]  # fmt: skip


def test_shares_and_sign_tests_by_hand():
    found = compare_models(VOTES, "a", "b")
    assert (found.votes, found.raters, found.prompts) == (12, 3, 4)
    shares = found.win.value, found.tie.value, found.loss.value, found.preference.value
    assert shares == pytest.approx((6 / 12, 3 / 12, 3 / 12, 7.5 / 12))
    assert found.by_prompt == SignTest(3, 1, 10 / 16), "p and r and s for a, q for b; 4 or 3 of 4, twice"
    assert found.by_rater == SignTest(2, 1, 1.0), "ann +1, bob +3, cid -1"


def test_the_other_way_round_all_is_mirrored():
    one, other = compare_models(VOTES, "a", "b"), compare_models(VOTES, "b", "a")
    assert (one.win, one.loss, one.tie) == (other.loss, other.win, other.tie)
    assert one.preference.low == pytest.approx(1 - other.preference.high)
    assert compare_models(VOTES, "a", "c") is None


def test_the_sign_test_of_ties_alone_says_nothing():
    found = compare_models([of(rater, prompt, "none") for rater in "xyz" for prompt in "pqr"], "a", "b")
    assert found.by_prompt == found.by_rater == SignTest(0, 0, 1.0)
    assert (found.tie.value, found.preference.value) == (1.0, 0.5)
    assert found.preference.low < 0.5 < found.preference.high


def test_figures_are_those_of_pandas():
    votes = simulate_votes(
        Population({"a": 0.4, "b": 0.0}), raters={"r1": "x", "r2": "x", "r3": "y"},
        prompts={f"p{i}": "uv"[i % 2] for i in range(9)}, repeats=3, checks=2,
    )  # fmt: skip
    table = pandas.read_csv(io.BytesIO(to_csv(votes)), keep_default_na=False).query("kind == 'main'")
    table["score"] = table.apply(lambda row: {"a": 1, "": 0, "b": -1}[{**row, "none": ""}[row.choice]], axis=1)
    (contest,) = analyze(votes).contests
    for criterion, own in table.groupby("criterion"):
        found = contest.overall[criterion]
        shares = [(own.score == score).mean() for score in (1, 0, -1)]
        assert [found.win.value, found.tie.value, found.loss.value] == pytest.approx(shares)
        assert found.by_prompt.first == (own.groupby("prompt").score.sum() > 0).sum()
    for part, column in ((contest.by_group, "group"), (contest.by_category, "category")):
        for name, own in table.query("criterion == 'quality'").groupby(column):
            assert part[name]["quality"].win.value == pytest.approx((own.score == 1).mean())


def test_practice_repeats_and_checks_do_not_count():
    extra = [
        of("ann", "t", "right", kind="practice"), of("ann", "p", "right", kind="repeat", repeat_of="p a b"),
        of("ann", "c", "left", "a", "a", kind="check", expected="left"),
    ]  # fmt: skip
    assert analyze([*VOTES, *extra]).contests == analyze(VOTES).contests
    with pytest.raises(UserError, match=r"no votes on main pairs yet \(of practice, repeats and checks 3\)"):
        analyze(extra)


def test_a_baseline_that_is_no_model_is_named_with_those_that_are():
    assert analyze(VOTES, "a").models == ["b", "a"]
    with pytest.raises(UserError, match="--baseline c: is not among the study's models; name one of a, b"):
        analyze(VOTES, "c")


def test_raters_who_fail_their_checks_are_left_out_beside_the_whole():
    def check(rater: str, choice: str, name: str):
        return of(rater, name, choice, "a", "a", kind="check", expected="left")

    checks = [check(rater, "left", f"c{i}") for rater in ("ann", "bob") for i in range(4)]
    few = [*checks, check("cid", "right", "c0"), *(check("cid", "left", f"c{i}") for i in (1, 2, 3))]
    assert analyze([*VOTES, *few]).careless == [], "one of four is a quarter, not more"
    found = analyze([*VOTES, *checks, *(check("cid", "none", f"c{i}") for i in range(4))])
    assert found.careless == ["cid"] and found.contests[0].overall["quality"].raters == 3
    assert found.contests[0].attentive["quality"] == compare_models(VOTES[:8], "a", "b")
    nobody = analyze([*VOTES, *(check(rater, "right", "c0") for rater in ("ann", "bob", "cid"))])
    assert nobody.careless == ["ann", "bob", "cid"] and nobody.contests[0].attentive == {}
