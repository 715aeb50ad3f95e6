"""The best by score, so many, under quotas: so that one domain does not fill the set."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from e2ed2.curation.pipeline import SelectConfig

RANKED_AT_A_TIME = 100_000  # rows, at least
ROWS_AT_A_TIME = 1000  # as Python's objects
COLUMNS = ("rank", "domain", "licence")  # read beside the number


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


def select(
    read: Callable[[], Iterable[pa.Table]], asked: SelectConfig, num_rows: int
) -> Iterator[tuple[int, str | None]]:
    """(Number, why it is not taken or None) of rows from the best on, until enough are taken.

    Args:
        read: gives all rows, part by part: `number`, `rank`, `domain`, `licence`.
    """
    count = min(asked.count or num_rows, num_rows)
    quotas, taken, after = Quotas(asked, count), 0, ""
    while taken < count:
        best = _best(read(), after, max(count, RANKED_AT_A_TIME))
        if best is None:
            return
        for batch in best.to_batches(ROWS_AT_A_TIME):
            for row in batch.to_pylist():
                if taken == count:
                    return
                refusal, after = quotas.refusal(row), row["rank"]
                taken += refusal is None
                yield row["number"], refusal


def _best(tables: Iterable[pa.Table], after: str, count: int) -> pa.Table | None:
    """The `count` best rows after a rank, in order; None where there is none."""
    best, worst, rank = None, None, pc.field("rank")
    for table in tables:
        table = table.filter(rank > after if worst is None else (rank > after) & (rank < worst))
        if len(table):
            best = table if best is None else pa.concat_tables([best, table])
            best = best.take(pc.select_k_unstable(best, count, [("rank", "ascending")]))
            worst = best["rank"][-1].as_py() if len(best) == count else None
    return best
