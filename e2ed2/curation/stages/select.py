"""The best by score, so many, under quotas: so that one domain does not fill the set."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import daft
from daft import col

from e2ed2.curation.pipeline import SelectConfig

RANKED_AT_A_TIME = 100_000  # rows, at least


@dataclass
class Quotas:
    """How many more of each value may be taken."""

    asked: SelectConfig
    count: int

    def __post_init__(self) -> None:
        self._taken: Counter[tuple[str, str]] = Counter()

    def refusal(self, row: dict[str, str | None]) -> str | None:
        """Why this row is not taken; None where it is, which counts."""
        values = [(quota, row[quota.column]) for quota in self.asked.quotas]
        for quota, value in values:
            if value is not None and self._taken[quota.column, value] >= math.ceil(quota.max_share * self.count):
                return f"quota of {quota.column} {value} is full"
        self._taken.update((quota.column, value) for quota, value in values if value is not None)
        return None


def select(rows: daft.DataFrame, asked: SelectConfig, num_rows: int) -> Iterator[tuple[int, str | None]]:
    """(Number, why it is not taken or None) of rows from the best on, until enough are taken.

    Args:
        rows: `number`, `rank`, `domain`, `licence`.
    """
    count = min(asked.count or num_rows, num_rows)
    quotas, taken, after = Quotas(asked, count), 0, ""
    while taken < count:
        best = rows.where(col("rank") > after).sort("rank").limit(max(count, RANKED_AT_A_TIME))
        seen = 0
        for row in best.iter_rows():
            if taken == count:
                return
            refusal, seen, after = quotas.refusal(row), seen + 1, row["rank"]
            taken += refusal is None
            yield row["number"], refusal
        if not seen:
            return
