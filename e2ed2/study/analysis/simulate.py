"""Raters whose preference is known, to try an analysis on and to count how often its intervals hold the truth.

A rater looks at two images and feels a difference: that of the models' strengths, of what this rater and this prompt
add to each model, of chance, and a pull to the left. Beyond a threshold it decides, within it neither is preferred (a
probit with ties and crossed random effects).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import combinations, product
from typing import Any
from zlib import crc32

import numpy as np
from scipy.special import ndtr

from e2ed2.study.analysis.crossed import Indices
from e2ed2.study.votes import CRITERIA, Vote

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Population:
    """Raters and prompts to draw from. The unit is the standard deviation of chance in a difference.

    Attributes:
        strength: of each model.
        threshold: the least difference that is decided.
        rater_spread, prompt_spread: standard deviations over raters and over prompts of a difference of two models.
        pull: to the left image.
        by_criterion: what a criterion multiplies strengths with; 1 where it is not named.
    """

    strength: Mapping[str, float]
    threshold: float = 0.3
    rater_spread: float = 0.3
    prompt_spread: float = 0.5
    pull: float = 0.0
    by_criterion: Mapping[str, float] | None = None

    def difference(self, first: str, second: str, criterion: str = "") -> float:
        """Of two strengths."""
        return (self.strength[first] - self.strength[second]) * (self.by_criterion or {}).get(criterion, 1.0)

    def shares(self, first: str, second: str, criterion: str = "") -> tuple[float, float, float]:
        """Win, tie and loss of the first model over all raters and prompts: the truth, in closed form."""
        spread = (1 + self.rater_spread**2 + self.prompt_spread**2) ** 0.5
        difference = self.difference(first, second, criterion)
        sides = [difference + self.pull, difference - self.pull]  # each as often
        win = float(np.mean([ndtr((felt - self.threshold) / spread) for felt in sides]))
        loss = float(np.mean([ndtr((-felt - self.threshold) / spread) for felt in sides]))
        return win, 1 - win - loss, loss


def draw_scores(
    population: Population, raters: int, prompts: int, generator: np.random.Generator
) -> tuple[Indices, Indices, Indices]:
    """A study in which each rater sees each prompt once, of the first two models: scores, raters, prompts, [N] each."""
    felt = (
        population.difference(*list(population.strength)[:2])
        + population.rater_spread * generator.standard_normal((raters, 1))
        + population.prompt_spread * generator.standard_normal(prompts)
        + population.pull * generator.choice([-1, 1], (raters, prompts))
        + generator.standard_normal((raters, prompts))
    )
    scores = (felt > population.threshold).astype(np.int64) - (felt < -population.threshold)
    rater, prompt = np.divmod(np.arange(raters * prompts), prompts)
    return scores.ravel(), rater, prompt


def choose(
    population: Population, seed: int, *, rater: str, pair: str, prompt: str, criterion: str, left: str, right: str
) -> str:
    """What a rater chooses, `left`, `right` or `none`: the same for the same names and seed, asked in any order."""

    def felt(model: str) -> float:
        spreads = ((population.rater_spread, rater), (population.prompt_spread, prompt))
        return population.strength[model] * (population.by_criterion or {}).get(criterion, 1.0) + sum(
            spread * 0.5**0.5 * _normal(seed, name, model) for spread, name in spreads
        )

    difference = felt(left) - felt(right) + population.pull + _normal(seed, rater, pair, criterion)
    return "none" if abs(difference) <= population.threshold else "left" if difference > 0 else "right"


def simulate_votes(
    population: Population,
    *,
    raters: Mapping[str, str],
    prompts: Mapping[str, str],
    repeats: int = 0,
    checks: int = 0,
    careless: Sequence[str] = (),
    seed: int = 0,
) -> list[Vote]:
    """The votes of a whole study: every rater on every pair of models for every prompt, by every criterion.

    Checks show one model on both sides.

    Args:
        raters: name -> group. prompts: prompt -> category.
        repeats: how many of the first pairs come twice. checks: pairs with a right answer.
        careless: raters who choose by chance.
    """
    plan = _plan(sorted(population.strength), prompts, repeats, checks)
    votes: list[Vote] = []
    for rater, group in raters.items():
        generator = np.random.default_rng([seed, crc32(rater.encode())])
        for criterion in CRITERIA:
            for shown in plan:
                left, right = generator.permutation([shown["left"], shown["right"]]).tolist()
                row: dict[str, Any] = {**shown, "rater": rater, "criterion": criterion, "left": left, "right": right}
                asked = {name: row[name] for name in ("rater", "pair", "prompt", "criterion", "left", "right")}
                row["choice"] = shown["expected"] or choose(population, seed, **asked)
                if rater in careless:
                    row["choice"] = generator.choice(["left", "right", "none"]).item()
                row["seconds"] = round(generator.lognormal(0.0 if rater in careless else 1.4, 0.5), 2)
                row["revised"] = int(generator.random() < 0.05)
                row |= {"group": group, "decided_at": BEGIN + timedelta(seconds=5 * len(votes))}
                votes.append(Vote.model_validate(row))
    return votes


def _plan(models: Sequence[str], prompts: Mapping[str, str], repeats: int, checks: int) -> list[dict[str, str]]:
    """What every rater is shown: those columns of a vote that are the same for all."""
    couples = product(prompts.items(), combinations(models, 2))
    main = [
        {"pair": f"m{i}", "kind": "main", "repeat_of": "", "expected": "", "prompt": prompt, "category": category}
        | {"left": first, "right": second}
        for i, ((prompt, category), (first, second)) in enumerate(couples)
    ]
    again = [
        {**row, "pair": f"r{i}", "kind": "repeat", "repeat_of": row["pair"]} for i, row in enumerate(main[:repeats])
    ]
    sure = [
        {**row, "pair": f"c{i}", "kind": "check", "expected": ("left", "right")[i % 2], "right": row["left"]}
        for i, row in enumerate(main[:checks])
    ]
    return [*main, *again, *sure]


def _normal(seed: int, *names: str) -> float:
    """A standard normal number that belongs to names."""
    return float(np.random.default_rng([seed, *(crc32(name.encode()) for name in names)]).standard_normal())
