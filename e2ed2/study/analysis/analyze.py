"""The whole analysis: votes to figures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from e2ed2.study.analysis.agreement import alpha
from e2ed2.study.analysis.bradley_terry import Strengths, fit_strengths
from e2ed2.study.analysis.crossed import Interval
from e2ed2.study.analysis.preferences import Preference, compare_models
from e2ed2.study.analysis.reliability import Rater, raters_of, seconds_of, side_bias
from e2ed2.study.votes import CRITERIA, Vote
from e2ed2.system.errors import UserError

ByCriterion = Mapping[str, Preference]


@dataclass(frozen=True)
class Contest:
    """Two models against each other, by criterion.

    Attributes:
        overall: by all votes. by_group: of rater groups; by_category: of prompt categories; where there are several.
        attentive: without the raters who failed too many checks; empty where there are none such, or no others.
    """

    first: str
    second: str
    overall: ByCriterion
    by_group: Mapping[str, ByCriterion]
    by_category: Mapping[str, ByCriterion]
    attentive: ByCriterion


@dataclass(frozen=True)
class Analysis:
    """What a study shows.

    Attributes:
        models: the baseline last, where one was named. contests: of all pairs of models that were compared.
        strengths: by criterion, for more than two models; None where no finite ones fit.
        agreement: Krippendorff's alpha by criterion; None where there is none.
        side_bias: share of left among decisions for a side. seconds: quartiles of a decision by criterion.
        revised: how many main votes were changed at least once.
        careless: raters who failed too many checks.
    """

    models: list[str]
    votes: int
    prompts: int
    contests: list[Contest]
    strengths: Mapping[str, Strengths | None]
    agreement: Mapping[str, float | None]
    raters: list[Rater]
    careless: list[str]
    side_bias: Interval | None
    seconds: Mapping[str, tuple[float, float, float]]
    revised: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def analyze(votes: Sequence[Vote], baseline: str | None = None) -> Analysis:
    """All figures of a study so far.

    Args:
        baseline: the model that others win or lose against; else models are in the order of their names.
    Raises:
        UserError: no votes on main pairs, or a baseline that is not among the models.
    """
    main = [vote for vote in votes if vote.kind == "main"]
    if not main:
        raise UserError(
            f"the study has no votes on main pairs yet (of practice, repeats and checks {len(votes)}): "
            "analyze it again when raters have decided"
        )
    models = sorted({model for vote in main for model in (vote.left, vote.right)})
    if baseline is not None:
        if baseline not in models:
            raise UserError(f"--baseline {baseline}: is not among the study's models; name one of {', '.join(models)}")
        models = [*(model for model in models if model != baseline), baseline]
    by_criterion = {name: [vote for vote in main if vote.criterion == name] for name in CRITERIA}
    by_criterion = {name: own for name, own in by_criterion.items() if own}
    raters = raters_of(votes)
    careless = [rater.name for rater in raters if rater.is_careless]
    contests = [_contest(main, *couple, careless) for couple in combinations(models, 2)]
    return Analysis(
        models=models,
        votes=len(main),
        prompts=len({vote.prompt for vote in main}),
        contests=[contest for contest in contests if contest.overall],
        strengths={name: fit_strengths(own, models) for name, own in by_criterion.items()} if len(models) > 2 else {},
        agreement={name: alpha(own) for name, own in by_criterion.items()},
        raters=raters,
        careless=careless,
        side_bias=side_bias(main),
        seconds={name: seconds_of(own) for name, own in by_criterion.items()},
        revised=sum(vote.revised > 0 for vote in main),
    )


def _contest(main: Sequence[Vote], first: str, second: str, careless: Sequence[str]) -> Contest:
    def compared(votes: Iterable[Vote]) -> dict[str, Preference]:
        own = list(votes)
        found = {c: compare_models([v for v in own if v.criterion == c], first, second) for c in CRITERIA}
        return {criterion: preference for criterion, preference in found.items() if preference is not None}

    def parts(names: set[str], field: str) -> dict[str, ByCriterion]:
        split = {name: compared(v for v in main if getattr(v, field) == name) for name in sorted(names)}
        return {name: part for name, part in split.items() if part} if len(names) > 1 else {}

    return Contest(
        first, second, compared(main), parts({v.group for v in main}, "group"),
        parts({v.category for v in main}, "category"),
        compared(v for v in main if v.rater not in careless) if careless else {},
    )  # fmt: skip
