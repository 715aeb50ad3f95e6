"""One row of the input on its way through the stages, and the parts that rows are kept in between: parquet files.

A part is written whole and renamed. Its name is its place in the input, `000003-0012`: the fragment (a folder, a tar
shard, a parquet row group), and which `part_rows` of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from e2ed2.system.files import atomic_file

SCHEMA = pa.schema(
    {
        "number": pa.int64(),
        "id": pa.string(),
        "source": pa.string(),
        "file": pa.string(),
        "offset": pa.int64(),
        "size": pa.int64(),
        "original_caption": pa.string(),
        "caption": pa.string(),
        "captioner": pa.string(),
        "licence": pa.string(),
        "domain": pa.string(),
        "score": pa.float64(),
        "width": pa.int32(),
        "height": pa.int32(),
        "format": pa.string(),
        "sha256": pa.string(),
        "perceptual_hash": pa.binary(),
        "embedding_hash": pa.binary(),
        "rank": pa.string(),
        "stage": pa.string(),
        "reason": pa.string(),
    }
)
ROWS_OF_FRAGMENT = 2**32  # more than any has
WHOLE = -1  # size of an image that is a file of its own


@dataclass(slots=True)
class Item:
    """One row.

    Attributes:
        number: its place in the input: fragment times `ROWS_OF_FRAGMENT`, and row. id: the path under the input, or the
            row's key. source: the file or URL it came from.
        file, offset, size: where the image's bytes are; `size` is `WHOLE` for a file of its own; no file: a URL not
            yet asked.
        captioner: the model that wrote the caption; None: it came with the row.
        rank: sorts before that of a worse item; unique.
        stage, reason: where and why it was dropped; None while it is kept.
    """

    number: int
    id: str
    source: str
    file: str | None = None
    offset: int = 0
    size: int = WHOLE
    original_caption: str = ""
    caption: str = ""
    captioner: str | None = None
    licence: str | None = None
    domain: str | None = None
    score: float | None = None
    width: int | None = None
    height: int | None = None
    format: str | None = None
    sha256: str | None = None
    perceptual_hash: bytes | None = None
    embedding_hash: bytes | None = None
    rank: str | None = None
    stage: str | None = None
    reason: str | None = None

    @property
    def kept(self) -> bool:
        return self.stage is None

    def drop(self, stage: str, reason: str) -> None:
        """Not kept; the first reason counts."""
        if self.stage is None:
            self.stage, self.reason = stage, reason

    def read(self) -> bytes:
        """The image's bytes.

        Raises:
            OSError: its file cannot be read, or is shorter than it was.
        """
        assert self.file is not None
        with open(self.file, "rb", buffering=0) as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if self.size != WHOLE and len(content) < self.size:
            raise OSError(f"{self.file} ends before the image does")
        return content


def write_part(path: Path, items: Iterable[Item]) -> None:
    """Rows as a parquet file; UserError where the disk refuses."""
    items = list(items)
    write_rows(path, pa.table({name: [getattr(item, name) for item in items] for name in SCHEMA.names}, SCHEMA))


def write_rows(path: Path, rows: pa.Table) -> None:
    """The same of a table of any columns."""
    with atomic_file(path) as temporary:
        pq.write_table(rows, temporary)


def items_of(table: pa.Table) -> list[Item]:
    """The rows of a table of parts."""
    columns = table.to_pydict()
    return [Item(*values) for values in zip(*(columns[field.name] for field in fields(Item)), strict=True)]


def with_fates(table: pa.Table, fates: Mapping[int, tuple[str, str]]) -> pa.Table:
    """Some rows of a table of parts dropped: number -> (stage, reason)."""
    numbers = table["number"].to_pylist() if fates else []
    if fates.keys().isdisjoint(numbers):
        return table
    for place, name in enumerate(("stage", "reason")):
        told = [
            fates[number][place] if number in fates else value
            for number, value in zip(numbers, table[name].to_pylist(), strict=True)
        ]
        table = table.set_column(table.column_names.index(name), name, pa.array(told, pa.string()))
    return table


def part_name(fragment: int, part: int) -> str:
    return f"{fragment:06d}-{part:04d}"


def first_number(part: str, part_rows: int) -> int:
    """That of the first row that a part may have."""
    fragment, place = part.split("-")
    return int(fragment) * ROWS_OF_FRAGMENT + int(place) * part_rows


def kept(items: Sequence[Item]) -> list[Item]:
    return [item for item in items if item.kept]
