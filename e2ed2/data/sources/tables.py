"""Parquet files and data sets of the Hugging Face hub, through the `datasets` package."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from e2ed2.data.items import RawItem, SkippedItem
from e2ed2.data.sources.columns import JSON_COLUMN, Columns
from e2ed2.data.sources.folder import as_pattern, visible_files
from e2ed2.data.sources.parquet import ROWS_AT_A_TIME, check_parquet, parquet_items, read_through, shared_columns
from e2ed2.data.sources.refusals import in_one_line, is_of_cache
from e2ed2.system.errors import UserError

Shard = Callable[[int], Iterator[RawItem | SkippedItem]]  # number of the first item -> that and all after it

NO_ROWS = "data.path '{}' has no rows: name one that has"


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
        self.default_caption = columns.default
        self._path, self._columns = path, columns
        with in_one_line(path):
            table = _load(path, _named(path, kind, revision), _split(kind, split), columns)
            self._table = table.cast(_undecoded(table.features))
            columns.check(_field_names(self._table.features), path)
            if not len(self._table):
                raise UserError(NO_ROWS.format(path))
            self._rows = self._table.select_columns(columns.among(self._table.column_names))
            names = columns.captions_among(self._table.column_names)
            self._captions = self._table.select_columns(names) if names else None

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, row: int) -> RawItem | SkippedItem:
        place = f"{self._path}[{row}]"
        try:
            return self._columns.item(self._rows[row], str(row), place)
        except Exception as error:  # of pyarrow too: bytes that are not what their column says
            return SkippedItem(place, str(error) or type(error).__name__)

    def is_by_default(self, row: int) -> bool:
        return self._captions is None or self._columns.captions(self._captions[row])[1]

    def fingerprint(self) -> str:
        default = "" if self.default_caption is None else f" {self.default_caption!r}"
        return f"{self._table._fingerprint} {self._columns}{default}"


def table_shards(
    path: str, kind: str, columns: Columns, revision: str | None = None, split: str = "train"
) -> list[Shard]:
    """The same rows as a stream: nothing is downloaded but what is being read. Raises as `TableSource` does."""
    with in_one_line(path):
        builder = _builder(_named(path, kind, revision))
        if files := _parquet_files(builder).get(_split(kind, split)):
            _check_files(files, columns, path)
            return [partial(parquet_items, file, columns, number) for number, file in enumerate(files)]
        table = builder.as_streaming_dataset(split=split)
        undecoded = table.decode(False) if table.features else table
        first = next(iter(undecoded), None)
    if first is None:
        raise UserError(NO_ROWS.format(path))
    columns.check(_field_names(first), path)
    return [partial(_read_shard, undecoded, i, columns, path) for i in range(table.num_shards)]


def parquet_files(path: str, kind: str, revision: str | None = None, split: str = "train") -> list[str]:
    """The files behind a table, as paths or URLs, in order; raises as `TableSource` does, or where it has none."""
    with in_one_line(path):
        files = _parquet_files(_builder(_named(path, kind, revision))).get(_split(kind, split), [])
    if not files:
        raise UserError(f"data.path '{path}' is not made of parquet files: name a data set that is")
    return files


def _named(path: str, kind: str, revision: str | None) -> dict[str, Any]:
    """What the package calls it; a path that exists is itself, whatever its characters."""
    if kind == "hub":
        return {"path": path, "revision": revision}
    is_folder, pattern = _is_folder(path), as_pattern(path)
    if is_folder and "://" not in path:
        for _ in visible_files(Path(path)):  # refuses a folder that cannot be listed; the package would leave it out
            pass
    return {"path": "parquet", "data_files": f"{pattern}/**/*.parquet" if is_folder else pattern}


def _split(kind: str, split: str) -> str:
    return split if kind == "hub" else "train"


def _load(path: str, named: dict[str, Any], split: str, columns: Columns) -> Any:
    """A `datasets.Dataset`. Raises anything, but a UserError where a parquet file is at fault."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    try:
        try:
            return load_dataset(**named, split=split)
        except DatasetGenerationError:  # perhaps for columns that nobody asked for, or a first file without rows
            if not (names := shared_columns(_all_files(named), columns)):
                raise
            return load_dataset(**named, split=split, columns=names, batch_size=ROWS_AT_A_TIME)
    except Exception as error:
        if not is_of_cache(error):
            files = _all_files(named)
            if files:
                _check_files(files, columns, path)
            for file in files:
                read_through(file, columns)
        raise


def _builder(named: dict[str, Any]) -> Any:
    from datasets import load_dataset_builder

    return load_dataset_builder(**named)


def _parquet_files(builder: Any) -> dict[str, list[str]]:
    """The files of each split; none where they are of another kind."""
    files = builder.config.data_files or {}
    return {str(split): list(paths) for split, paths in files.items()} if builder.name == "parquet" else {}


def _all_files(named: dict[str, Any]) -> list[str]:
    return [file for files in _parquet_files(_builder(named)).values() for file in files]


def _check_files(files: list[str], columns: Columns, path: str) -> None:
    """Raise UserError naming the first file that cannot be opened or lacks a column, or when none has rows."""
    has_rows = False
    for file in files:
        if has_rows and "://" in file:  # one request each: they are looked at when they are read
            return
        has_rows = bool(check_parquet(file, columns)) or has_rows
    if not has_rows:
        raise UserError(NO_ROWS.format(path))


def _is_folder(path: str) -> bool:
    """Whether on disk or in a store; HTTP knows no folders."""
    if "://" not in path:
        return Path(path).is_dir()
    if "*" in path or path.endswith(".parquet") or path.startswith(("http://", "https://")):
        return False
    import fsspec

    system, inner = fsspec.url_to_fs(path)
    return system.isdir(inner)


def _read_shard(table: Any, number: int, columns: Columns, path: str, first: int) -> Iterator[RawItem | SkippedItem]:
    place = f"{path}, shard {number}"
    with in_one_line(place):
        rows = table.shard(table.num_shards, number, contiguous=True).skip(first)
        for i, row in enumerate(rows, start=first):
            try:
                yield columns.item(row, f"{number}/{i}", f"{place}[{i}]")
            except ValueError as error:
                yield SkippedItem(f"{place}[{i}]", str(error))


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
