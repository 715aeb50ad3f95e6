"""A user's folder of captioned images -> `ImageTextSet`, scanned completely before anything is trained."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

from e2ed2.data.batch import ImageTextSet, SkippedItem
from e2ed2.data.transforms import read_image
from e2ed2.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
NUM_NAMED = 5  # bad files in an error's one line; its notes hold them all


@dataclass(frozen=True)
class FolderSource:
    """Images in a folder and its subfolders, captioned in one of two ways.

    With `metadata.jsonl` or `metadata.csv` in the folder, its rows are the captions: `file_name` (relative to
    the folder) and `text`, the imagefolder convention of Hugging Face datasets. Otherwise `name.txt` beside
    `name.png`.

    Attributes:
        path: the folder.
        size: pixels of the square images that `load` gives.
        max_bad_fraction: share of unusable items, 0 to 1, above which `load` refuses the folder.
    """

    path: Path
    size: int
    max_bad_fraction: float = 0.05

    def load(self, progress: Callable[[int, int], None] | None = None) -> ImageTextSet:
        """Decode every captioned image once, in the order of the metadata rows or else of the paths.

        Args:
            progress: called with (done, total) after each item.
        Raises:
            UserError: folder missing or empty, metadata unreadable, no item usable, or too many bad ones. The
                notes of the last two (`error.__notes__`) list every bad item.
        """
        items = _list_items(self.path)
        images = torch.empty(len(items), 3, self.size, self.size, dtype=torch.uint8)
        captions: list[str] = []
        keys: list[str] = []
        skipped: list[SkippedItem] = []
        for done, item in enumerate(items, start=1):
            if isinstance(item, SkippedItem):
                skipped.append(item)
            else:
                try:
                    images[len(keys)] = read_image(item.path, self.size)
                except ValueError as error:
                    skipped.append(SkippedItem(item.path, str(error)))
                else:
                    captions.append(item.caption)
                    keys.append(item.path.relative_to(self.path).as_posix())
            if progress:
                progress(done, len(items))
        self._check_share(skipped, len(items))
        return ImageTextSet(images[: len(keys)], captions, keys, skipped=skipped)

    def _check_share(self, skipped: list[SkippedItem], num_items: int) -> None:
        share = len(skipped) / num_items
        if share < 1 and share <= self.max_bad_fraction:
            return
        named = "; ".join(map(str, skipped[:NUM_NAMED]))
        if len(skipped) > NUM_NAMED:
            named += f"; and {len(skipped) - NUM_NAMED} more"
        if len(skipped) == num_items:
            error = UserError(f"data.path '{self.path}': none of {num_items} items is usable: {named}")
        else:
            error = UserError(
                f"data.path '{self.path}': {len(skipped)} of {num_items} items ({share:.1%}) are unusable, "
                f"data.max_bad_fraction allows {self.max_bad_fraction:.1%}; mend or remove them: {named}"
            )
        error.add_note("\n".join(map(str, skipped)))
        raise error


@dataclass(frozen=True)
class _Captioned:
    """An image file, not yet opened, and its caption."""

    path: Path
    caption: str


def _list_items(folder: Path) -> list[_Captioned | SkippedItem]:
    """Every image or metadata row of the folder, once: something to decode, or known to be unusable."""
    if not folder.is_dir():
        raise UserError(f"data.path '{folder}' is not a folder: name one that holds images and captions")
    files = sorted(p for p in folder.rglob("*") if _is_visible_image(p, folder))
    found = [p for p in (folder / "metadata.jsonl", folder / "metadata.csv") if p.is_file()]
    if len(found) == 2:
        raise UserError(f"data.path '{folder}' has both metadata.jsonl and metadata.csv: keep one of them")
    items = _from_metadata(found[0], files) if found else [_from_text_file(p) for p in files]
    if not items:
        raise UserError(f"data.path '{folder}' holds no images: put {', '.join(IMAGE_SUFFIXES)} files there")
    return items


def _is_visible_image(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden and path.is_file()


def _from_text_file(path: Path) -> _Captioned | SkippedItem:
    text_path = path.with_suffix(".txt")
    try:
        return _with_caption(path, text_path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return SkippedItem(path, f"no caption: {text_path.name} is missing")
    except UnicodeDecodeError:
        return SkippedItem(path, f"caption {text_path.name} is not UTF-8 text")
    except OSError as error:
        return SkippedItem(path, f"caption {text_path.name} cannot be read ({error.strerror})")


def _with_caption(path: Path, text: object) -> _Captioned | SkippedItem:
    """Line breaks and runs of blanks in a caption become single blanks."""
    if text is None:
        return SkippedItem(path, "no caption")
    if not isinstance(text, str):
        return SkippedItem(path, f"caption is not text but {type(text).__name__}")
    caption = " ".join(text.split())
    return _Captioned(path, caption) if caption else SkippedItem(path, "caption is empty")


def _from_metadata(metadata: Path, files: Iterable[Path]) -> list[_Captioned | SkippedItem]:
    """One item per row, then the image files that no row names."""
    read_rows = _jsonl_rows if metadata.suffix == ".jsonl" else _csv_rows
    items: list[_Captioned | SkippedItem] = []
    listed: set[Path] = set()
    try:
        with metadata.open(encoding="utf-8-sig", newline="") as file:
            for line, row in read_rows(file):
                item = _from_row(metadata, line, row, listed)
                listed.add(item.path)
                items.append(item)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{metadata} cannot be read as UTF-8 {metadata.suffix[1:]}: {error}") from error
    unlisted = [SkippedItem(p, f"no row in {metadata.name}") for p in files if p not in listed]
    return items + unlisted


def _from_row(metadata: Path, line: int, row: Any, listed: set[Path]) -> _Captioned | SkippedItem:
    place = metadata.with_name(f"{metadata.name}:{line}")
    if not isinstance(row, dict):
        return SkippedItem(place, "not a JSON object")
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        return SkippedItem(place, "no file_name")
    path = metadata.parent / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return SkippedItem(place, f"file_name '{name}' lies outside the folder")
    if path in listed:
        return SkippedItem(place, f"file_name '{name}' is listed before; the first row counts")
    if not path.is_file():
        return SkippedItem(path, f"named in {metadata.name}:{line}, but missing")
    return _with_caption(path, row.get("text"))


def _jsonl_rows(file: TextIO) -> Iterator[tuple[int, Any]]:
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            yield line, json.loads(text)
        except json.JSONDecodeError:
            yield line, None


def _csv_rows(file: TextIO) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(file)
    columns = reader.fieldnames or []
    if not {"file_name", "text"} <= set(columns):
        raise UserError(f"{file.name} needs the columns file_name and text, but has: {', '.join(columns)}")
    for row in reader:
        yield reader.line_num, row
