"""A user's folder of captioned images, as a source."""

import csv
import glob
import hashlib
import os
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from e2ed2.data.items import RawItem, SkippedItem
from e2ed2.data.sources.columns import CAPTION_COLUMNS, Columns, parse_fields
from e2ed2.system.errors import UserError
from e2ed2.system.files import ENDLESS, is_endless
from e2ed2.system.readers.text import decode_text, read_bytes

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
UNREAD_SUFFIXES = (".heic", ".heif", ".jxl", ".jp2")  # photos too; none goes missing unsaid
BESIDE_IMAGES = {".txt", ".json", ".jsonl", ".csv", ".safetensors", ".npy"}  # captions and our own files
FILE_COLUMN = "file_name"
MAX_LINE = 2**24  # letters of metadata at a time; a longer line is no row
END = "\0end\0"  # read after the last line: with a quote left open it comes as a part of the last row


class FolderSource:
    """Images in a folder and its subfolders, linked ones too, captioned in one of two ways.

    With `metadata.jsonl` or `metadata.csv` in the folder, its rows are the captions: `file_name` (relative to
    the folder) and `text` or `caption`, the imagefolder convention of Hugging Face datasets. Otherwise `name.txt`
    beside `name.png`. Items come in the order of the rows or else of the paths. With `columns.default` that is the
    caption of an image without a text, or that no row names.

    Args:
        path: the folder.
        columns: of the metadata; `image` is not read.
    Raises:
        UserError: folder missing or empty, or metadata unreadable.
    """

    def __init__(self, path: Path, columns: Columns = Columns()):  # noqa: B008 - frozen
        self._path, self._columns, self.default_caption = path, columns, columns.default
        listed = self._list_items()
        self._items = [item for item in listed if isinstance(item, RawItem)]
        self.skipped = [item for item in listed if isinstance(item, SkippedItem)]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, row: int) -> RawItem:
        return self._items[row]

    def is_by_default(self, row: int) -> bool:
        return self._items[row].by_default

    def fingerprint(self) -> str:
        """Hash of every path, size, time of change and caption."""
        digest = hashlib.sha256()
        for item in self._items:
            assert isinstance(item.image, Path)
            stat = item.image.stat()
            digest.update(repr((item.key, stat.st_size, stat.st_mtime_ns, item.captions)).encode())
        return digest.hexdigest()

    def _list_items(self) -> list[RawItem | SkippedItem]:
        """Every image or metadata row of the folder, once: something to decode, or known to be unusable."""
        folder = self._path
        if not folder.is_dir():
            raise UserError(f"data.path '{folder}' is not a folder: name one that holds images and captions")
        files = sorted(p for p in visible_files(folder) if p.suffix.lower() in IMAGE_SUFFIXES + UNREAD_SUFFIXES)
        found = [p for p in (folder / "metadata.jsonl", folder / "metadata.csv") if p.exists() and not p.is_dir()]
        if endless := [p for p in found if is_endless(p)]:
            raise UserError(f"data.path: {endless[0]}: {ENDLESS}: remove it")
        if len(found) == 2:
            raise UserError(f"data.path '{folder}' has both metadata.jsonl and metadata.csv: keep one of them")
        items = self._from_metadata(found[0], files) if found else [self._from_text_file(p) for p in files]
        if not items:
            raise UserError(f"data.path '{folder}' holds no images: put {', '.join(IMAGE_SUFFIXES)} files there")
        return items

    def _from_text_file(self, path: Path) -> RawItem | SkippedItem:
        text_path = path.with_suffix(".txt")
        missing = f"no caption: {text_path.name} is missing"
        if (unfit := _unfit(path)) is not None:
            return unfit
        try:
            content = read_bytes(text_path, "caption", "mend it") if os.path.lexists(text_path) else None
            return self._item(path, *self._columns.captions_of(content))
        except UserError as error:
            leads_nowhere = isinstance(error.__cause__, FileNotFoundError)  # a link
            return SkippedItem(path, missing if leads_nowhere else str(error))
        except ValueError as error:
            return SkippedItem(path, missing if content is None else f"{text_path.name}: {error}")

    def _item(self, path: Path, captions: tuple[str, ...], by_default: bool) -> RawItem:
        return RawItem(path.relative_to(self._path).as_posix(), path, captions, path, by_default)

    def _from_metadata(self, metadata: Path, files: Iterable[Path]) -> list[RawItem | SkippedItem]:
        """One item per row, then the image files that no row names.

        Those are skipped, or have the default caption where every row says which file it is about.
        """
        read_rows = _jsonl_rows if metadata.suffix == ".jsonl" else self._csv_rows
        items: list[RawItem | SkippedItem] = []
        listed: set[Path | str] = set()
        names_all = True
        try:
            # Bytes that are no UTF-8 are kept, so that only the row they are in is skipped.
            with metadata.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                for line, row in read_rows(iter(partial(file.readline, MAX_LINE), "")):
                    item = self._from_row(metadata, line, row, listed)
                    listed.add(item.place if isinstance(item, RawItem) else item.path)
                    items.append(item)
                    names_all = names_all and _file_name(row) is not None
        except OSError as error:
            raise UserError(f"{metadata} cannot be read: {error.strerror}; mend it") from error
        for path in (p for p in files if p not in listed):
            if names_all and self._columns.default is not None:
                items.append(_unfit(path) or self._item(path, *self._columns.captions_of(None)))
            else:
                items.append(SkippedItem(path, f"no row in {metadata.name}"))
        return items

    def _from_row(self, metadata: Path, line: int, row: Any, listed: set[Path | str]) -> RawItem | SkippedItem:
        place = metadata.with_name(f"{metadata.name}:{line}")
        if not isinstance(row, dict):
            return SkippedItem(place, str(row) if isinstance(row, ValueError) else "not a JSON object")
        if (name := _file_name(row)) is None:
            return SkippedItem(place, f"no {FILE_COLUMN}")
        path = metadata.parent / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return SkippedItem(place, f"file_name '{name}' lies outside the folder")
        if path in listed:
            return SkippedItem(place, f"file_name '{name}' is listed before; the first row counts")
        if not os.path.isfile(path):  # also where no file can have that name
            return SkippedItem(path, f"named in {place.name}, but missing")
        try:
            return self._item(path, *self._columns.captions(row))
        except ValueError as error:
            return SkippedItem(path, f"{place.name}: {error}")

    def _csv_rows(self, lines: Iterator[str]) -> Iterator[tuple[int, Any]]:
        """(Number of its last line, the row, or why there is none)."""
        reader = csv.DictReader(chain(lines, [END]))
        try:
            self._check_columns([name.replace(END, "") for name in reader.fieldnames or []])
            for row in reader:
                values = {name: value for name, value in row.items() if isinstance(value, str)}
                if END in values.values():
                    return
                if any(END in value for value in values.values()):
                    yield reader.line_num - 1, ValueError("a quote that nothing closes")
                    return
                as_bytes = {name: value.encode(errors="surrogateescape") for name, value in values.items()}
                yield reader.line_num, as_bytes | {FILE_COLUMN: values.get(FILE_COLUMN)}
        except csv.Error as error:
            raise UserError(f"{self._path / 'metadata.csv'}:{reader.reader.line_num}: {error}; mend it") from error

    def _check_columns(self, names: list[str]) -> None:
        captions = {self._columns.caption} if self._columns.caption else set(CAPTION_COLUMNS)
        has_captions = self._columns.default is not None or not captions.isdisjoint(names)
        if FILE_COLUMN not in names or not has_captions:
            needed = f"needs the columns {FILE_COLUMN} and {self._columns.caption or 'text'}"
            has = f"but has: {', '.join(names)}; data.caption_column names another"
            raise UserError(f"{self._path / 'metadata.csv'} {needed}, {has}")


def _unfit(path: Path) -> SkippedItem | None:
    """What is named as an image and is none, and why."""
    if path.suffix.lower() in UNREAD_SUFFIXES:
        return SkippedItem(path, f"{path.suffix} images are not read: convert it to PNG or JPEG, or remove it")
    return None if path.is_file() else SkippedItem(path, "a link that leads nowhere, or no file")


def _file_name(row: Any) -> str | None:
    """The file that a row of the metadata is about, None where it does not say."""
    name = row.get(FILE_COLUMN) if isinstance(row, dict) else None
    return name if isinstance(name, str) and name else None


def as_pattern(path: str) -> str:
    """A path as a pattern of `glob`: as far as it exists it is itself, whatever its characters."""
    there, rest = split_where_it_ends(path)
    return glob.escape(there) + rest


def split_where_it_ends(path: str) -> tuple[str, str]:
    """(What exists of a path, the rest of it, in which characters may have a meaning); nothing is known of a URL."""
    there, rest = ("", path) if "://" in path else (path, "")
    while there and not os.path.lexists(there):
        there, slash, last = there.rpartition("/")
        rest = slash + last + rest
    return there, rest


def visible_files(folder: Path) -> Iterator[Path]:
    """All files of a folder and its subfolders, through links but for those that lead back to a folder above them.

    Raises:
        UserError: a folder among them cannot be listed.
    """
    for name, subfolders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        here = Path(name)
        subfolders[:] = [sub for sub in subfolders if not sub.startswith(".") and not _leads_back(here / sub)]
        yield from (here / file for file in files if not file.startswith("."))


def _refuse(error: OSError) -> None:
    raise UserError(
        f"folder {error.filename}: {error.strerror}, so that its files would be missing; give access to it, or "
        "name a folder without it"
    ) from error


def _leads_back(folder: Path) -> bool:
    return folder.is_symlink() and folder.resolve() in {parent.resolve() for parent in folder.absolute().parents}


def _jsonl_rows(lines: Iterator[str]) -> Iterator[tuple[int, Any]]:
    """(Number of the line, its values, or why there are none)."""
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            yield number, parse_fields(decode_text(text.encode(errors="surrogateescape")))
        except JSONDecodeError:
            yield number, None
        except ValueError as error:
            yield number, ValueError(str(error).removeprefix("line 1 "))


def list_images(folder: Path, kind: str) -> list[Path]:
    """The images of a folder and its subfolders, by path.

    Raises:
        UserError: no such folder, none in it, or a file that is neither image nor caption.
    """
    if not folder.is_dir():
        raise UserError(f"{kind} {folder}: no such folder; give one of images, its place by --data or in the protocol")
    paths = []
    for path in sorted(p for p in visible_files(folder) if p.is_file()):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            paths.append(path)
        elif path.suffix.lower() not in BESIDE_IMAGES:
            raise UserError(f"{kind} {folder}: {path.relative_to(folder)} is no image; remove it from the folder")
    if not paths:
        raise UserError(f"{kind} {folder}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return paths
