"""Decisions as the table of votes: one row for each screen that a rater has decided."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from e2ed2.study.folder import Shown, Study, read_study
from e2ed2.study.store import Decision, Store, default_url
from e2ed2.study.votes import Vote, read_votes

SHOWN = ("criterion", "pair", "kind", "repeat_of", "prompt", "category", "left", "right", "expected")


def votes_of(study: Study, store: Store) -> list[Vote]:
    """The decisions that stand, by rater, in the order of the screens."""
    made: dict[str, dict[int, list[Decision]]] = {}
    for rater, decision in store.decisions():
        made.setdefault(rater, {}).setdefault(decision.screen, []).append(decision)
    return [
        _vote(rater.name, rater.group, shown, made[rater.name][shown.number])
        for rater in study.raters.values()
        for shown in rater.screens
        if shown.number in made.get(rater.name, {})
    ]


def read_any_votes(path: Path, database_url: str | None = None) -> list[Vote]:
    """The votes of a study's folder, while it is served too, or of a file that it exported.

    Raises:
        UserError: no study, a database that cannot be used, or as `read_votes`.
    """
    if path.suffix in (".csv", ".parquet") and not path.is_dir():
        return read_votes(path)
    study = read_study(path)
    store = Store(database_url or default_url(path), study.id, list(study.raters))
    try:
        return votes_of(study, store)
    finally:
        store.close()


def _vote(rater: str, group: str, shown: Shown, decisions: Iterable[Decision]) -> Vote:
    """The decision that stands. To choose the same again changes nothing: it was decided when it was first chosen."""
    first, *others = decisions
    stands, revised = first, 0
    for decision in others:
        if decision.choice != stands.choice:
            stands, revised = decision, revised + 1
    values = {name: getattr(shown, name) for name in SHOWN}
    decided_at = datetime.fromtimestamp(stands.decided_at, UTC)
    about = {"rater": rater, "group": group, "choice": stands.choice, "seconds": stands.seconds}
    return Vote.model_validate({**values, **about, "revised": revised, "decided_at": decided_at})
