"""The steps that look at all rows at once: as data frames of few, narrow columns, in the engine."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import daft
import pyarrow as pa
import pyarrow.parquet as pq
from daft import DataType, col

from e2ed2.curation.hashes import MIRROR
from e2ed2.curation.items import ROWS_OF_FRAGMENT, part_name
from e2ed2.curation.pipeline import Pipeline
from e2ed2.curation.stages.deduplicate import NEAR_LOOKS, NEAR_MEANING, NO_MIRROR, copies
from e2ed2.curation.stages.select import select
from e2ed2.curation.work import Work
from e2ed2.system.errors import UserError
from e2ed2.system.files import atomic_folder

ROWS_A_FILE = 100_000
NUM_REASONS = 3  # in a message
ENOUGH = "better ones were enough"


def deduplicate(pipeline: Pipeline, work: Work, done: list[str]) -> None:
    """Drop copies, of bytes and of looks."""
    assert pipeline.deduplicate is not None
    rows = _live(work, done)
    num_rows = _count(rows, done, work)
    columns = rows.select(
        "number", "id", _digest(col("sha256")).alias("bytes"), col("perceptual_hash").alias("hash"),
        _order(col("width"), col("height"), col("rank")).alias("order"),
    )  # fmt: skip
    with atomic_folder(work.step("deduplicate")) as folder:
        found = copies(columns, folder, num_rows, pipeline.deduplicate.max_distance, MIRROR, NEAR_LOOKS)
        _write_dropped(found, folder, "deduplicate", pipeline.engine.part_rows)


def deduplicate_meanings(pipeline: Pipeline, work: Work, done: list[str]) -> None:
    """Drop what means nearly the same as another: by the hashes of their features."""
    assert pipeline.deduplicate is not None
    rows = _live(work, done)
    columns = rows.select(
        "number", "id", daft.lit(None).cast(DataType.binary()).alias("bytes"), col("embedding_hash").alias("hash"),
        _order(col("width"), col("height"), col("rank")).alias("order"),
    )  # fmt: skip
    with atomic_folder(work.step("similar")) as folder:
        most = pipeline.deduplicate.max_embedding_distance
        found = copies(columns, folder, _count(rows, done, work), most, NO_MIRROR, NEAR_MEANING)
        _write_dropped(found, folder, "similar", pipeline.engine.part_rows)


def select_best(pipeline: Pipeline, work: Work, done: list[str]) -> None:
    """Drop what is not among the best."""
    rows = _live(work, done)
    num_rows = _count(rows, done, work)
    with atomic_folder(work.step("select")) as folder:
        if pipeline.select.count is None and not pipeline.select.quotas:
            return
        _write_seen(select(rows.select("number", "rank", "domain", "licence"), pipeline.select, num_rows), folder)
        seen = daft.read_parquet(f"{folder}/seen/*.parquet")
        found = rows.select("number").join(seen, on="number", how="left").where(~col("taken").fill_null(False))
        _write_dropped(
            found.select("number", col("reason").fill_null(ENOUGH)), folder, "select", pipeline.engine.part_rows
        )


def _live(work: Work, done: list[str]) -> daft.DataFrame:
    """The rows that are kept so far, from the last step that wrote them."""
    written = [step for step in done if any(work.step(step).glob("*.parquet"))]
    rows = daft.read_parquet(f"{work.step(written[-1])}/*.parquet").where(col("stage").is_null())
    for step in done[done.index(written[-1]) + 1 :]:
        if any(work.step(step).glob("part=*")):
            dropped = daft.read_parquet(f"{work.step(step)}/part=*/*.parquet").select("number")
            rows = rows.join(dropped, on="number", how="anti")
    return rows


def _count(rows: daft.DataFrame, done: list[str], work: Work) -> int:
    """How many rows there are; UserError where none is, with why the last ones went."""
    if count := rows.count_rows():
        return count
    written = [step for step in done if any(work.step(step).glob("*.parquet"))]
    dropped = (
        daft.read_parquet(f"{work.step(written[-1])}/*.parquet").groupby("stage", "reason").agg(col("number").count())
    )
    most = dropped.sort(["number", "reason"], desc=[True, False]).limit(NUM_REASONS).to_pylist()
    said = ", ".join(f"{row['number']:,} x {row['reason']}" for row in most)
    raise UserError(f"no row is left after the stage {done[-1]}: {said}; ask less of them in the pipeline")


def _write_seen(seen: Iterable[tuple[int, str | None]], folder: Path) -> None:
    """Which rows were looked at from the best on: `number`, `taken`, `reason`."""
    schema = pa.schema({"number": pa.int64(), "taken": pa.bool_(), "reason": pa.string()})
    (folder / "seen").mkdir()
    with pq.ParquetWriter(folder / "seen" / "0.parquet", schema) as writer:
        for chunk in _chunks(seen):
            rows = [{"number": number, "taken": reason is None, "reason": reason} for number, reason in chunk]
            writer.write_table(pa.Table.from_pylist(rows, schema))


def _chunks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    rows = iter(rows)
    while chunk := list(islice(rows, ROWS_A_FILE)):
        yield chunk


def _write_dropped(found: daft.DataFrame, folder: Path, stage: str, part_rows: int) -> None:
    """`number`, `stage`, `reason` of what goes, by the part that it is in."""
    rows = found.with_columns({"stage": daft.lit(stage), "part": _part(col("number"), part_rows)})
    rows.write_parquet(str(folder), partition_cols=["part"])


@daft.func(return_dtype=DataType.string())
def _part(number: int, part_rows: int) -> str:
    fragment, row = divmod(number, ROWS_OF_FRAGMENT)
    return part_name(fragment, row // part_rows)


@daft.func(return_dtype=DataType.binary())
def _digest(sha256: str) -> bytes:
    return bytes.fromhex(sha256)[:16]


@daft.func(return_dtype=DataType.binary())
def _order(width: int, height: int, rank: str) -> bytes:
    """The larger image first, then by rank."""
    return (2**63 - width * height).to_bytes(8) + bytes.fromhex(rank)
