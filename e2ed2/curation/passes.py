"""The steps that look at all rows: in units, each of which holds the rows of a few parts or a bucket of keys,
however many rows there are.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from e2ed2.curation.engine import Task, run_units
from e2ed2.curation.exchange import gather, scatter
from e2ed2.curation.items import first_number, write_rows
from e2ed2.curation.pipeline import Pipeline
from e2ed2.curation.stages import deduplicate as copies
from e2ed2.curation.stages import select as best
from e2ed2.curation.work import Work
from e2ed2.system.files import atomic_folder
from e2ed2.system.watch import Watch

ROWS_A_BLOCK, ROWS_A_GROUP = 8192, 100_000
KEYS_A_BUCKET = 2**18
ENOUGH = "better ones were enough"


@dataclass(frozen=True)
class Rows:
    """What a step looks at: `num` rows, which are kept after the steps that are `done`.

    Attributes:
        blocks, groups: parts one after another that hold up to `ROWS_A_BLOCK` and `ROWS_A_GROUP` of them together.
    """

    pipeline: Pipeline
    done: Sequence[str]
    num: int
    blocks: Sequence[Sequence[str]]
    groups: Sequence[Sequence[str]]

    @classmethod
    def of(cls, pipeline: Pipeline, parts: Sequence[str], done: Sequence[str]) -> "Rows":
        """Those of all parts; UserError where none is kept."""
        counts = Work(pipeline.output.path).num_live(parts, done)
        blocks, groups = (_together(parts, counts, most) for most in (ROWS_A_BLOCK, ROWS_A_GROUP))
        return cls(pipeline, [*done], sum(counts), blocks, groups)

    @property
    def work(self) -> Work:
        return Work(self.pipeline.output.path)

    def group_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """[N]: which of the groups each row is in."""
        starts = [first_number(group[0], self.pipeline.engine.part_rows) for group in self.groups]
        return np.searchsorted(np.array(starts), numbers, side="right") - 1

    def live(self, parts: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """`number` and some columns of what is kept of some parts."""
        return pa.concat_tables([self.work.live(part, self.done, columns) for part in parts])

    def run(self, what: str, units: Sequence[str], made: Callable[[str], Path], task: Task, watch: Watch) -> None:
        """Do those units whose file is not there."""
        run_units(what, units, lambda unit: made(unit).exists(), lambda: task, self.pipeline.engine, watch)

    def drop(self, step: str, task: Callable[[int], pa.Table], watch: Watch) -> None:
        """Write what goes of each part: `number`, `stage`, `reason`, which the task finds by groups."""
        groups = self.groups
        self.run(
            step, [*map(str, range(len(groups)))], lambda unit: self.work.losses(step, groups[int(unit)][-1]),
            partial(_drop_of_group, self, step, task), watch,
        )  # fmt: skip


def _together(parts: Sequence[str], counts: Sequence[int], most: int) -> list[list[str]]:
    groups: list[list[str]] = []
    held = most
    for part, count in zip(parts, counts, strict=True):
        if held + count > most:
            groups.append([])
            held = 0
        groups[-1].append(part)
        held += count
    return groups


def _drop_of_group(rows: Rows, step: str, task: Callable[[int], pa.Table], unit: str) -> None:
    lost, group = task(int(unit)), rows.groups[int(unit)]
    starts = [first_number(part, rows.pipeline.engine.part_rows) for part in group]
    for part, start, end in zip(group, starts, [*starts[1:], None], strict=True):
        number = pc.field("number")
        own = number >= start if end is None else (number >= start) & (number < end)
        write_rows(rows.work.losses(step, part), lost.filter(own))


def deduplicate(rows: Rows, watch: Watch) -> None:
    """Drop copies, of bytes and of looks."""
    assert rows.pipeline.deduplicate is not None
    _drop_copies(rows, copies.LOOKS, rows.pipeline.deduplicate.max_distance, watch)


def deduplicate_meanings(rows: Rows, watch: Watch) -> None:
    """Drop what means nearly the same as another: by the hashes of their features."""
    assert rows.pipeline.deduplicate is not None
    _drop_copies(rows, copies.MEANING, rows.pipeline.deduplicate.max_embedding_distance, watch)


def _drop_copies(rows: Rows, likeness: copies.Likeness, most: int | None, watch: Watch) -> None:
    """Keys go from each block of parts to buckets, pairs from each bucket to groups of parts."""
    step = likeness.step
    keys, pairs = (partial(rows.work.exchanged, f"{step}-{what}") for what in ("keys", "pairs"))
    num_buckets = copies.num_buckets(rows.num, KEYS_A_BUCKET)
    blocks, buckets = ([*map(str, range(count))] for count in (len(rows.blocks), num_buckets))
    all_keys, all_pairs = [*map(keys, blocks)], [*map(pairs, buckets)]

    def find_keys(block: str) -> None:
        live = rows.live(rows.blocks[int(block)], [*copies.COLUMNS, likeness.hash])
        found = copies.keyed(live, likeness, most is not None)
        scatter(found, found["key"].to_numpy() % num_buckets, num_buckets, keys(block))

    def find_pairs(bucket: str) -> None:
        found = copies.pairs(gather(all_keys, int(bucket)), most or 0, likeness.mirror)
        scatter(found, rows.group_of(found["number"].to_numpy()), len(rows.groups), pairs(bucket))

    rows.run(f"{step} keys", blocks, keys, find_keys, watch)
    rows.run(f"{step} pairs", buckets, pairs, find_pairs, watch)
    rows.drop(step, lambda group: copies.losses(gather(all_pairs, group), likeness), watch)


def select_best(rows: Rows, watch: Watch) -> None:
    """Drop what is not among the best."""
    asked = rows.pipeline.select
    if asked.count is None and not asked.quotas:
        return
    folder = rows.work.step("select-seen")
    if not folder.exists():
        watch("select", 0, 0)
        with atomic_folder(folder) as temporary:
            seen = best.select(lambda: (rows.live(block, best.COLUMNS) for block in rows.blocks), asked, rows.num)
            _write_seen(rows, seen, temporary)
    rows.drop("select", partial(_not_taken, rows, sorted(folder.glob("*.arrow"))), watch)


def _write_seen(rows: Rows, seen: Iterator[tuple[int, str | None]], folder: Path) -> None:
    """Which rows were looked at from the best on, `number` and `reason`, to the groups of parts that they are in."""
    chunks = iter(lambda: [*islice(seen, ROWS_A_GROUP)], [])
    for place, chunk in enumerate(chunks):
        numbers, reasons = zip(*chunk, strict=True)
        table = pa.RecordBatch.from_arrays([pa.array(numbers), pa.array(reasons, pa.string())], ["number", "reason"])
        scatter(table, rows.group_of(np.array(numbers)), len(rows.groups), folder / f"{place:06d}.arrow")


def _not_taken(rows: Rows, seen: Sequence[Path], group: int) -> pa.Table:
    """What goes of a group: what was refused, and all that was not looked at."""
    looked_at = gather(seen, group)
    refused = looked_at.filter(pc.field("reason").is_valid())
    live = rows.live(rows.groups[group], [])
    beyond = live.filter(~pc.field("number").isin(looked_at["number"]))
    beyond = beyond.append_column("reason", pa.repeat(ENOUGH, len(beyond)))
    lost = pa.concat_tables([refused, beyond])
    return lost.append_column("stage", pa.repeat("select", len(lost)))
