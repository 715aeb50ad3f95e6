"""The best under quotas, beside taking them one by one from a sorted list."""

import math
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from e2ed2.curation.pipeline import SelectConfig
from e2ed2.curation.stages import select as selecting
from e2ed2.curation.stages.select import select


def rows(count):
    random = np.random.default_rng(0)
    domains = [None if n % 11 == 0 else "abcd"[int(random.geometric(0.6)) % 4] for n in range(count)]
    return {
        "number": [*range(count)],
        "rank": [f"{int(n):048x}" for n in random.permutation(count)],
        "domain": domains,
        "licence": [("x", "y", None)[n % 3] for n in range(count)],
    }


def by_parts(table):
    """What reads them, 13 rows at a time."""
    whole = pa.table(table)
    return lambda: (whole.slice(first, 13) for first in range(0, len(whole), 13))


@pytest.mark.parametrize("at_a_time", [7, 10**6])
@pytest.mark.parametrize("quotas", [[], [("domain", 0.2)], [("domain", 0.3), ("licence", 0.35)]])
def test_the_best_are_taken_as_long_as_quotas_have_room(quotas, at_a_time, monkeypatch):
    monkeypatch.setattr(selecting, "RANKED_AT_A_TIME", at_a_time)
    table, count = rows(120), 40
    taken, counts = [], Counter()
    for n in sorted(range(120), key=lambda n: table["rank"][n]):
        keys = [(column, table[column][n], math.ceil(share * count)) for column, share in quotas]
        if all(value is None or counts[column, value] < most for column, value, most in keys):
            counts.update((column, value) for column, value, _ in keys)
            taken.append(n)
    asked = SelectConfig(count=count, quotas=[{"column": column, "max_share": share} for column, share in quotas])
    seen = [*select(by_parts(table), asked, 120)]
    assert [number for number, reason in seen if reason is None] == taken[:count]
    assert all(reason is None or reason.endswith("is full") for _, reason in seen)
    assert bool(quotas) == any(reason for _, reason in seen)


def test_quotas_that_leave_too_few_end():
    table = rows(50) | {"domain": ["one"] * 50}
    asked = SelectConfig(count=20, quotas=[{"column": "domain", "max_share": 0.1}])
    seen = [*select(by_parts(table), asked, 50)]
    assert sum(reason is None for _, reason in seen) == 2 and len(seen) == 50
