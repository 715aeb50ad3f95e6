"""A user's folder of captioned images, as a source."""

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from e2ed2.data.batch import RawItem, SkippedItem
from e2ed2.data.columns import CAPTION_COLUMNS, Columns, clean_captions
from e2ed2.system.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
UNREAD_SUFFIXES = (".heic", ".heif", ".jxl", ".jp2")  # photos too; none goes missing unsaid
FILE_COLUMN = "file_name"


class FolderSource:
    """Images in a folder and its subfolders, linked ones too, captioned in one of two ways.

    With `metadata.jsonl` or `metadata.csv` in the folder, its rows are the captions: `file_name` (relative to
    the folder) and `text` or `caption`, the imagefolder convention of Hugging Face datasets. Otherwise `name.txt`
    beside `name.png`. Items come in the order of the rows or else of the paths.

    Args:
        path: the folder.
        columns: of the metadata; `image` is not read.
    Raises:
        UserError: folder missing or empty, or metadata unreadable.
    """

    def __init__(self, path: Path, columns: Columns = Columns()):  # noqa: B008 - frozen
        self._path, self._columns = path, columns
        listed = self._list_items()
        self._items = [item for item in listed if isinstance(item, RawItem)]
        self.skipped = [item for item in listed if isinstance(item, SkippedItem)]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, row: int) -> RawItem:
        return self._items[row]

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
        found = [p for p in (folder / "metadata.jsonl", folder / "metadata.csv") if p.is_file()]
        if len(found) == 2:
            raise UserError(f"data.path '{folder}' has both metadata.jsonl and metadata.csv: keep one of them")
        items = self._from_metadata(found[0], files) if found else [self._from_text_file(p) for p in files]
        if not items:
            raise UserError(f"data.path '{folder}' holds no images: put {', '.join(IMAGE_SUFFIXES)} files there")
        return items

    def _from_text_file(self, path: Path) -> RawItem | SkippedItem:
        text_path = path.with_suffix(".txt")
        if path.suffix.lower() in UNREAD_SUFFIXES:
            return SkippedItem(path, f"{path.suffix} images are not read: convert it to PNG or JPEG, or remove it")
        if not path.is_file():
            return SkippedItem(path, "a link that leads nowhere, or no file")
        try:
            return self._item(path, clean_captions(text_path.read_text("utf-8-sig"), self._columns.caption_per_line))
        except FileNotFoundError:
            return SkippedItem(path, f"no caption: {text_path.name} is missing")
        except UnicodeDecodeError:
            return SkippedItem(path, f"caption {text_path.name} is not UTF-8 text")
        except OSError as error:
            return SkippedItem(path, f"caption {text_path.name} cannot be read ({error.strerror})")
        except ValueError as error:
            return SkippedItem(path, str(error))

    def _item(self, path: Path, captions: tuple[str, ...]) -> RawItem:
        return RawItem(path.relative_to(self._path).as_posix(), path, captions, path)

    def _from_metadata(self, metadata: Path, files: Iterable[Path]) -> list[RawItem | SkippedItem]:
        """One item per row, then the image files that no row names."""
        read_rows = _jsonl_rows if metadata.suffix == ".jsonl" else self._csv_rows
        items: list[RawItem | SkippedItem] = []
        listed: set[Path | str] = set()
        try:
            with metadata.open(encoding="utf-8-sig", newline="") as file:
                for line, row in read_rows(file):
                    item = self._from_row(metadata, line, row, listed)
                    listed.add(item.place if isinstance(item, RawItem) else item.path)
                    items.append(item)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{metadata} cannot be read as UTF-8 {metadata.suffix[1:]}: {error}") from error
        unlisted = [SkippedItem(p, f"no row in {metadata.name}") for p in files if p not in listed]
        return items + unlisted

    def _from_row(self, metadata: Path, line: int, row: Any, listed: set[Path | str]) -> RawItem | SkippedItem:
        place = metadata.with_name(f"{metadata.name}:{line}")
        if not isinstance(row, dict):
            return SkippedItem(place, "not a JSON object")
        name = row.get(FILE_COLUMN)
        if not isinstance(name, str) or not name:
            return SkippedItem(place, f"no {FILE_COLUMN}")
        path = metadata.parent / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return SkippedItem(place, f"file_name '{name}' lies outside the folder")
        if path in listed:
            return SkippedItem(place, f"file_name '{name}' is listed before; the first row counts")
        if not path.is_file():
            return SkippedItem(path, f"named in {metadata.name}:{line}, but missing")
        try:
            return self._item(path, self._columns.captions(row))
        except ValueError as error:
            return SkippedItem(path, str(error))

    def _csv_rows(self, file: TextIO) -> Iterator[tuple[int, Any]]:
        reader = csv.DictReader(file)
        columns = set(reader.fieldnames or [])
        captions = {self._columns.caption} if self._columns.caption else set(CAPTION_COLUMNS)
        if FILE_COLUMN not in columns or not columns & captions:
            wanted = self._columns.caption or "text"
            raise UserError(
                f"{file.name} needs the columns {FILE_COLUMN} and {wanted}, but has: "
                f"{', '.join(reader.fieldnames or [])}; data.caption_column names another"
            )
        for row in reader:
            yield reader.line_num, row


def visible_files(folder: Path) -> Iterator[Path]:
    """All files of a folder and its subfolders, through links but for those that lead back to a folder above them."""
    for name, subfolders, files in os.walk(folder, followlinks=True):
        here = Path(name)
        subfolders[:] = [sub for sub in subfolders if not sub.startswith(".") and not _leads_back(here / sub)]
        yield from (here / file for file in files if not file.startswith("."))


def _leads_back(folder: Path) -> bool:
    return folder.is_symlink() and folder.resolve() in {parent.resolve() for parent in folder.absolute().parents}


def _jsonl_rows(file: TextIO) -> Iterator[tuple[int, Any]]:
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            yield line, json.loads(text)
        except json.JSONDecodeError:
            yield line, None
