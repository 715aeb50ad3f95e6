"""Conditions on columns, before anything is downloaded."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from e2ed2.curation.pipeline import Condition
from e2ed2.curation.sources.row import check_column

ASPECT = "aspect"  # the longer side by the shorter, of these:
SIDES = ("width", "height"), ("WIDTH", "HEIGHT")


def check_conditions(conditions: Sequence[Condition], names: Iterable[str], where: str) -> None:
    """Raise UserError where a condition's column is not there; the message lists those that are."""
    known = set(names)
    if any(known.issuperset(sides) for sides in SIDES):
        known.add(ASPECT)
    for number, condition in enumerate(conditions):
        check_column(f"filter.{number}.column", condition.column, known, where)


def unmet(conditions: Sequence[Condition], fields: Mapping[str, Any]) -> str | None:
    """The first condition that a row's columns do not meet, in words; None where they meet all."""
    for condition in conditions:
        name = condition.column
        value = fields.get(name) if name != ASPECT or name in fields else _aspect(fields)
        if value is None:
            return f"{name} is missing"
        if condition.values is not None and value not in condition.values:
            return f"{name} is another"
        if condition.min is None and condition.max is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            return f"{name} is no number"
        if condition.min is not None and value < condition.min:
            return f"{name} below {condition.min:g}"
        if condition.max is not None and value > condition.max:
            return f"{name} above {condition.max:g}"
    return None


def _aspect(fields: Mapping[str, Any]) -> float | None:
    for width, height in ((fields.get(width), fields.get(height)) for width, height in SIDES):
        if isinstance(width, int | float) and isinstance(height, int | float) and min(width, height) > 0:
            return max(width, height) / min(width, height)
    return None
