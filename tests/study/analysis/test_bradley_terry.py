"""Strengths: those of another implementation where there are no ties, in closed form for two models with ties."""

import choix
import numpy as np
import pytest

from e2ed2.study.analysis.bradley_terry import davidson, fit_strengths
from e2ed2.study.analysis.crossed import crossed_variance, symmetric_interval
from e2ed2.study.analysis.simulate import Population, simulate_votes

WIN, LOSS, TIE = 0, 1, 2


def votes_between(models: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    left = generator.integers(models, size=count)
    right = (left + 1 + generator.integers(models - 1, size=count)) % models
    strength = np.linspace(-1, 1, models)
    return left, right, (generator.random(count) > 1 / (1 + np.exp(strength[right] - strength[left]))).astype(int)


@pytest.mark.parametrize(("models", "count"), [(2, 50), (4, 300), (9, 3000)])
def test_without_ties_it_is_what_choix_finds(models, count):
    left, right, outcome = votes_between(models, count)
    beta, influence = davidson(left, right, outcome, models)
    pairs = [(i, j) if o == WIN else (j, i) for i, j, o in zip(left, right, outcome, strict=True)]
    np.testing.assert_allclose(beta[:models], choix.ilsr_pairwise(models, pairs, alpha=0), atol=1e-6)
    assert beta.shape == (models + 1,) and beta[-1] == 0 and np.abs(influence.sum(axis=0)).max() < 1e-9


def test_two_models_with_ties_in_closed_form():
    """Shares are fitted exactly: win / loss = pi_1 / pi_2, tie / sqrt(win loss) = nu (Davidson 1970)."""
    outcome = np.array([WIN] * 50 + [TIE] * 20 + [LOSS] * 30)
    beta, _ = davidson(np.zeros(100, int), np.ones(100, int), outcome, 2)
    assert beta[0] - beta[1] == pytest.approx(np.log(50 / 30)) and beta[0] + beta[1] == pytest.approx(0)
    assert np.exp(beta[2]) == pytest.approx(20 / np.sqrt(50 * 30))


def test_the_error_of_a_strength_is_that_of_the_share_by_the_delta_method():
    generator = np.random.default_rng(1)
    rater, prompt = np.divmod(np.arange(400), 40)
    outcome = (generator.random(400) < 0.3).astype(int)
    _, influence = davidson(np.zeros(400, int), np.ones(400, int), outcome, 2)
    share = 1 - outcome.mean()
    of_share, degrees = crossed_variance(((outcome == WIN) - share) / 400, rater, prompt)
    of_strength = crossed_variance(influence[:, 0], rater, prompt)
    assert of_strength == pytest.approx((of_share / (2 * share * (1 - share)) ** 2, degrees)), "half the log odds"


@pytest.mark.parametrize(
    ("left", "right", "outcome"),
    [
        ([0] * 9, [1] * 9, [WIN] * 9),  # one wins always
        ([0] * 9, [1] * 9, [TIE] * 9),  # ties alone
        ([0] * 9, [1] * 9, [WIN, TIE, TIE] * 3),  # one never loses
        ([0, 0, 2, 2], [1, 1, 3, 3], [WIN, LOSS, WIN, LOSS]),  # two pairs that never met
        ([0, 0, 0, 1], [1, 1, 2, 2], [WIN, LOSS, WIN, WIN]),  # a third that lost always
    ],
)  # fmt: skip
def test_there_are_no_finite_strengths(left, right, outcome):
    assert davidson(np.array(left), np.array(right), np.array(outcome), max(right) + 1) is None


def test_strengths_of_a_study_are_in_the_order_of_the_truth():
    votes = simulate_votes(
        Population({"a": 0.0, "b": 0.4, "c": 0.9}), raters={f"r{i}": "x" for i in range(5)},
        prompts={f"p{i}": "" for i in range(30)},
    )  # fmt: skip
    found = fit_strengths([vote for vote in votes if vote.criterion == "quality"], ["a", "b", "c"])
    a, b, c = found.log_strength.values()
    assert a.value < b.value < c.value and a.value + b.value + c.value == pytest.approx(0) and found.nu > 0
    assert a.low < a.value < a.high < c.low


@pytest.mark.slow
@pytest.mark.parametrize(("raters", "prompts"), [(10, 40), (5, 40)])
def test_the_interval_of_a_strength_holds_it(raters, prompts):
    """Each rater sees each prompt with one pair of models, in turn, as a study of three is designed."""
    spread, strengths, couples = 0.5, np.array([0.8, 0.2, 0.0]), np.array([(0, 1), (0, 2), (1, 2)])
    generator, held, studies = np.random.default_rng(0), np.zeros(3), 500

    def votes(raters: int, prompts: int):
        rater, prompt = np.divmod(np.arange(raters * prompts), prompts)
        left, right = couples[(rater + prompt) % 3].T
        of_rater, of_prompt = (spread * generator.normal(size=(count, 3)) for count in (raters, prompts))
        felt = strengths + of_rater[rater] + of_prompt[prompt] + generator.gumbel(size=(len(rater), 3))
        vote = np.arange(len(rater))
        difference = felt[vote, left] - felt[vote, right]
        return left, right, np.where(difference > 0.5, WIN, np.where(difference < -0.5, LOSS, TIE)), rater, prompt

    left, right, outcome, *_ = votes(1000, 1000)
    truth = davidson(left, right, outcome, 3)[0]
    for _ in range(studies):
        left, right, outcome, rater, prompt = votes(raters, prompts)
        beta, influence = davidson(left, right, outcome, 3)
        limits = [symmetric_interval(float(beta[i]), influence[:, i], rater, prompt).limits for i in range(3)]
        held += [low <= truth[i] <= high for i, (low, high) in enumerate(limits)]
    assert all(0.92 <= share <= 0.985 for share in held / studies), held
