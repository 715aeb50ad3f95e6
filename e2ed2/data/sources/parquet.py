"""One parquet file, row by row, on disk or in a store: of its columns only those that image and captions may be in."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

from e2ed2.data.items import RawItem, SkippedItem
from e2ed2.data.sources.columns import JSON_COLUMN, Columns
from e2ed2.data.sources.refusals import in_one_line
from e2ed2.system.errors import UserError

ROWS_AT_A_TIME = 64


def check_parquet(path: str, columns: Columns) -> list[str]:
    """Those of a file's columns that image and captions may be in; none where it has no rows.

    Raises:
        UserError: it cannot be opened, or has rows without such columns.
    """
    with opened_parquet(path) as file:
        return _asked(file, path, columns)


def shared_columns(paths: Sequence[str], columns: Columns) -> list[str]:
    """Those that all files have.

    Raises:
        UserError: as `check_parquet` does, or the default caption would be in the place of what only some files have.
    """
    asked = [names for path in paths if (names := check_parquet(path, columns))]
    shared = [name for name in asked[0] if all(name in names for names in asked)] if asked else []
    captions = sorted({name for names in asked for name in columns.captions_among(names)})
    if columns.default is not None and captions and not columns.captions_among(shared):
        raise UserError(
            f"data.default_caption: of the files {paths[0]} to {paths[-1]} only some have the column '{captions[0]}', "
            "and their columns differ otherwise too; add data.streaming=true, which reads each file by its own"
        )
    return shared


def read_through(path: str, columns: Columns) -> None:
    """Raise UserError when a file cannot be read to its end."""
    for _ in parquet_items(path, columns, 0, 0):
        pass


def parquet_items(path: str, columns: Columns, number: int, first: int) -> Iterator[RawItem | SkippedItem]:
    """The rows from `first` on, as items of the shard `number`.

    Raises:
        UserError: the file cannot be read so far, or lacks a column.
    """
    with opened_parquet(path) as file:
        row, names = 0, _asked(file, path, columns)
        for group in range(file.num_row_groups):
            end = row + file.metadata.row_group(group).num_rows
            if end <= first:
                row = end
                continue
            for batch in file.iter_batches(ROWS_AT_A_TIME, row_groups=[group], columns=names):
                for i in range(max(0, first - row), len(batch)):
                    yield _item(batch.slice(i, 1), columns, f"{number}/{row + i}", f"{path}[{row + i}]")
                row += len(batch)


def _item(row: Any, columns: Columns, key: str, place: str) -> RawItem | SkippedItem:
    """The one row of a batch."""
    try:
        return columns.item(row.to_pylist()[0], key, place)
    except Exception as error:  # of pyarrow: bytes that are not what their column says
        return SkippedItem(place, str(error) or type(error).__name__)


@contextmanager
def opened_parquet(path: str) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile`; UserError where it cannot be opened."""
    import pyarrow.parquet as pq

    with in_one_line(path), _open(path) as content:
        yield pq.ParquetFile(content, pre_buffer="://" in path)


def _open(path: str) -> IO[bytes]:
    if "://" not in path:
        return open(path, "rb")
    from datasets.utils.file_utils import xopen  # tries again where a connection breaks off

    return xopen(path, "rb")


def _asked(file: Any, path: str, columns: Columns) -> list[str]:
    if file.metadata.num_rows <= 0:
        return []
    names = list(file.schema_arrow.names)
    inner = file.schema_arrow.field(JSON_COLUMN).type if JSON_COLUMN in names else None
    within = [] if inner is None else [f"{JSON_COLUMN}.{inner.field(i).name}" for i in range(inner.num_fields)]
    columns.check([*names, *within], path)
    return columns.among(names)
