"""Memory beside the number of rows: neither the rows of a table nor what Python and numpy hold grows with it."""

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from e2ed2.curation import passes
from e2ed2.curation.hashes import rank
from e2ed2.curation.items import Item, part_name, write_part
from e2ed2.curation.run import curate
from e2ed2.curation.stages import deduplicate, select
from e2ed2.curation.work import Work, write_count
from e2ed2.data.sources.shards import PLACES, samples, write_tar
from e2ed2.system.watch import silent
from tests.curation.conftest import encoded, picture, pipeline_of

PART, KEPT, BUCKET = 100, 100, 1000


@pytest.fixture
def small_units(monkeypatch):
    """As many units for a few hundred rows as there are otherwise for a million."""
    monkeypatch.setattr(passes, "KEYS_A_BUCKET", BUCKET)
    monkeypatch.setattr(passes, "ROWS_A_BLOCK", PART)
    monkeypatch.setattr(passes, "ROWS_A_GROUP", 2 * PART)
    monkeypatch.setattr(select, "RANKED_AT_A_TIME", KEPT)


def checked(out: Path, shard: Path, count: int):
    """A pipeline whose images have been checked: made-up rows of one image, every tenth the same bytes as another."""
    asked = pipeline_of(
        out, "input.source=webdataset", f"input.path={shard}", f"select.count={KEPT}", f"engine.part_rows={PART}",
        "select.quotas=[{column: domain, max_share: 0.2}]",
    )  # fmt: skip
    work, random = Work(out), np.random.default_rng(0)
    work.claim(asked)
    sample = next(iter(samples(str(shard))))
    offset, size = sample[PLACES]["jpg"]
    for part in range(count // PART):
        items = []
        for number in range(part * PART, (part + 1) * PART):
            sha = random.bytes(32).hex() if number % 10 else f"{number // 20:064d}"
            items.append(
                Item(
                    number, f"{number:09d}", "here", str(shard), offset, size, "words", "words",
                    domain=f"site{number % 30}", score=float(random.normal()), width=96, height=96, format="JPEG",
                    sha256=sha, perceptual_hash=random.bytes(deduplicate.LOOKS.length),
                )
            )  # fmt: skip
            items[-1].rank = rank(0, items[-1].id, number, items[-1].score)
        for step in ("read", "check"):
            write_part(work.part(step, part_name(0, part)), items)
    write_count(work.fragment(0), count // PART)
    return asked


@pytest.fixture
def tables(monkeypatch):
    """Name -> rows of every table that a function gives."""
    found = {}

    def count(place, name):
        real = getattr(place, name)

        def counted(*args, **options):
            table = real(*args, **options)
            found.setdefault(name, []).append(len(table))
            return table

        monkeypatch.setattr(place, name, counted)

    for place, name in ((pq, "read_table"), (passes, "gather"), (select, "_best")):
        count(place, name)
    return found


def held(pipeline) -> int:
    """Bytes of Python's objects and numpy's arrays at most, from the first step on."""
    before = []

    def watch(step, done, total):
        if not before:
            before.append(tracemalloc.get_traced_memory()[0])
            tracemalloc.reset_peak()

    tracemalloc.start()
    curate(pipeline, watch)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most - before[0]


def test_four_times_the_rows_are_held_in_the_same_memory(small_units, tables, tmp_path):
    shard = tmp_path / "0.tar"
    write_tar(shard, [("0.jpg", encoded(picture(0))), ("0.txt", b"words")])
    curate(checked(tmp_path / "first", shard, PART), silent)  # what is loaded once
    few, many = (held(checked(tmp_path / str(count), shard, count)) for count in (6 * PART, 24 * PART))
    assert many < 1.3 * few
    assert max(tables["read_table"]) == PART and max(tables["_best"]) == KEPT
    assert BUCKET / 2 < max(tables["gather"]) < 1.5 * BUCKET and sum(tables["gather"]) > 9 * 30 * PART
