"""`manifest.parquet`: a row for every item that was read, in the input's order; and the funnel that it tells."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from e2ed2.curation.items import SCHEMA, Item, items_of, with_fates
from e2ed2.curation.work import Work
from e2ed2.system.files import atomic_file
from e2ed2.system.watch import Watch

INNER = ("number", "file", "offset", "size", "rank")  # columns that mean nothing outside
HASHES = ("perceptual_hash", "embedding_hash")
COLUMNS = pa.schema(
    [
        ("id", pa.string()), ("kept", pa.bool_()), ("stage", pa.string()), ("reason", pa.string()),
        *(
            (field.name, pa.string() if field.name in HASHES else field.type)
            for field in SCHEMA if field.name not in (*INNER, "id", "stage", "reason")
        ),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Funnel:
    """What became of the rows.

    Attributes:
        read, kept: rows. dropped: stage -> rows.
    """

    read: int
    kept: int
    dropped: dict[str, int]

    @classmethod
    def of(cls, manifest: Path) -> "Funnel":
        counts: Counter[str | None] = Counter()
        with pq.ParquetFile(manifest) as file:
            for batch in file.iter_batches(columns=["stage"]):
                for row in pc.value_counts(batch["stage"]).to_pylist():
                    counts[row["values"]] += row["counts"]
        dropped = {stage: count for stage, count in counts.items() if stage is not None}
        return cls(counts.total(), counts[None], dropped)


def write_manifest(
    work: Work, parts: list[str], steps: Sequence[str], watch: Watch, see: Callable[[list[Item]], None]
) -> None:
    """All parts after all steps, as one file; rows whose image was gone when its shard was written among them.

    Args:
        see: is shown the rows of every part.
    """
    lost = work.lost()
    with atomic_file(work.manifest) as temporary, pq.ParquetWriter(temporary, COLUMNS) as writer:
        for done, part in enumerate(parts, 1):
            table = with_fates(work.rows(part, steps), lost)
            writer.write_table(_told(table))
            see(items_of(table))
            watch("manifest", done, len(parts))


def _told(table: pa.Table) -> pa.Table:
    """A part's rows as the manifest tells them."""
    columns = {name: table[name] for name in table.column_names}
    columns["kept"] = pc.is_null(columns["stage"])
    for name in HASHES:
        columns[name] = pa.array([value and value.hex() for value in columns[name].to_pylist()], pa.string())
    return pa.table([columns[name] for name in COLUMNS.names], COLUMNS)
