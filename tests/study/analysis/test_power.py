"""The power in closed form is how often simulated studies show the preference."""

import numpy as np
import pytest

from e2ed2.study.analysis.crossed import share_interval, variance_shares
from e2ed2.study.analysis.power import Assumed, power, power_table
from e2ed2.study.analysis.simulate import Population, draw_scores
from e2ed2.system.errors import UserError


@pytest.mark.parametrize(
    ("population", "raters", "prompts"),
    [
        (Population({"a": 0.15, "b": 0.0}), 10, 40),
        (Population({"a": 0.3, "b": 0.0}, rater_spread=0.6, prompt_spread=0.2), 30, 20),
        (Population({"a": 0.3, "b": 0.0}), 5, 100),
    ],
)
def test_power_is_how_often_studies_show_it(population, raters, prompts):
    generator, studies = np.random.default_rng(0), 1000
    scores, rater, prompt = draw_scores(population, 1000, 1000, generator)
    win, tie, _ = population.shares("a", "b")
    assumed = Assumed(win + tie / 2, tie, *variance_shares((scores + 1) / 2, rater, prompt))
    shown = 0
    for _ in range(studies):
        scores, rater, prompt = draw_scores(population, raters, prompts, generator)
        shown += share_interval((scores + 1) / 2, rater, prompt).low > 0.5
    assert power(assumed, raters, prompts) == pytest.approx(shown / studies, abs=0.045), "three standard errors"


def test_more_of_either_shows_more_and_raters_who_differ_cannot_be_made_up_for_by_prompts():
    table = power_table(Assumed(0.6, 0.2, 0.05, 0.15), (5, 10, 20), (40, 300))
    rows = [[int(cell.strip(" %")) for cell in line.strip("|\n").split("|")[1:]] for line in table.splitlines()[2:]]
    assert all(few < many for few, many in rows) and [row[0] for row in rows] == sorted({row[0] for row in rows})
    assert power(Assumed(0.6, 0.2, 0.05, 0.15), 5, 10**6) < 0.5
    assert power(Assumed(0.6, 0.8, 0.0, 0.0), 100, 100) == pytest.approx(1)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0.5, 0.2, 0, 0), "--preference 0.5: must lie between 0.5 and 1"),
        ((float("nan"), 0.2, 0, 0), "--preference nan"),
        ((0.9, 0.3, 0, 0), "--ties 0.3: must be 0 to 0.2 at a preference of 0.9"),
        ((0.6, 0.2, 0.5, 0.5), "--rater-share 0.5 --prompt-share 0.5: must be 0 or more, in sum below 1"),
        ((0.6, 0.2, -0.1, 0.5), "--rater-share -0.1"),
        ((0.6, 0.2, float("nan"), 0.5), "--rater-share nan"),
    ],
)
def test_what_cannot_be_assumed_is_one_line(values, said):
    with pytest.raises(UserError) as error:
        Assumed(*values)
    assert said in str(error.value)


def test_two_raters_are_too_few():
    with pytest.raises(UserError, match="raters 2: must be 3 to"):
        power(Assumed(0.6, 0.2, 0, 0), 2, 40)
