"""Parquet files and data sets of the Hugging Face hub, through the `datasets` package."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from e2ed2.data.batch import RawItem, SkippedItem
from e2ed2.data.columns import JSON_COLUMN, Columns
from e2ed2.system.errors import UserError

Shard = Callable[[int], Iterator[RawItem | SkippedItem]]  # number of the first item -> that and all after it


class TableSource:
    """The rows of a table on disk, mapped into memory; hub data sets are downloaded when they are first opened.

    Args:
        path: of `parquet` a file, a folder or a pattern, also as a URL; of `hub` a data set's name.
        kind: `parquet` or `hub`.
    Raises:
        UserError: it cannot be opened, or has no such column.
    """

    def __init__(self, path: str, kind: str, columns: Columns, revision: str | None = None, split: str = "train"):
        self.skipped: list[SkippedItem] = []
        self._path, self._columns = path, columns
        table = open_table(path, kind, revision, split, streaming=False)
        self._table = table.cast(_undecoded(table.features))
        columns.check(_field_names(self._table.features), path)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, row: int) -> RawItem:
        return self._columns.item(self._table[row], str(row), f"{self._path}[{row}]")

    def fingerprint(self) -> str:
        return f"{self._table._fingerprint} {self._columns}"


def table_shards(
    path: str, kind: str, columns: Columns, revision: str | None = None, split: str = "train"
) -> list[Shard]:
    """The same rows as a stream: nothing is downloaded but what is being read. Raises as `TableSource` does."""
    table = open_table(path, kind, revision, split, streaming=True)
    first = next(iter(table), None)
    if first is None:
        raise UserError(f"data.path '{path}' has no rows: name one that has")
    columns.check(_field_names(first), path)
    undecoded = table.decode(False) if table.features else table
    return [partial(_read_shard, undecoded, i, columns, path) for i in range(table.num_shards)]


def open_table(path: str, kind: str, revision: str | None, split: str, streaming: bool) -> Any:
    """A `datasets.Dataset`, or an `IterableDataset` when streaming.

    Raises:
        UserError: missing, unreadable, no access, or the package is not installed.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UserError(f"data.source={kind} needs a package: run `pip install 'e2ed2[train]'` ({error})") from error
    try:
        if kind == "hub":
            return load_dataset(path, revision=revision, split=split, streaming=streaming)
        files = f"{path}/**/*.parquet" if _is_folder(path) else path
        return load_dataset("parquet", data_files=files, split="train", streaming=streaming)
    except Exception as error:  # of many libraries: a missing file, no network, no such split, damaged bytes
        raise unreadable(path, error) from error


def _is_folder(path: str) -> bool:
    """Whether on disk or in a store; HTTP knows no folders."""
    if "://" not in path:
        return Path(path).is_dir()
    if "*" in path or path.endswith(".parquet") or path.startswith(("http://", "https://")):
        return False
    import fsspec

    system, inner = fsspec.url_to_fs(path)
    return system.isdir(inner)


def unreadable(path: str, error: BaseException) -> UserError:
    """What to tell a user when `path` cannot be read."""
    while error.__cause__ is not None:
        error = error.__cause__
    name, reason = type(error).__name__, " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ImportError):
        remedy = "install that package"
    elif "Credentials" in name or isinstance(error, PermissionError):
        remedy = "give access, for S3 by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile"
    else:
        remedy = "name a path, URL or data set that can be read, or fetch the damaged file again"
    return UserError(f"data.path '{path}' cannot be read ({reason}): {remedy}")


def _read_shard(table: Any, number: int, columns: Columns, path: str, first: int) -> Iterator[RawItem | SkippedItem]:
    place = f"{path}, shard {number}"
    try:
        rows = table.shard(table.num_shards, number, contiguous=True).skip(first)
        for i, row in enumerate(rows, start=first):
            try:
                yield columns.item(row, f"{number}/{i}", f"{place}[{i}]")
            except ValueError as error:
                yield SkippedItem(f"{place}[{i}]", str(error))
    except OSError as error:
        raise unreadable(place, error) from error


def _undecoded(features: Any) -> Any:
    """The same columns, images left as they are stored."""
    from datasets import Image

    undecoded = features.copy()
    for name, feature in features.items():
        if isinstance(feature, Image):
            undecoded[name] = Image(decode=False)
    return undecoded


def _field_names(row: Any) -> list[str]:
    inner = row.get(JSON_COLUMN)
    return [*row, *(f"{JSON_COLUMN}.{name}" for name in inner)] if isinstance(inner, dict) else list(row)
