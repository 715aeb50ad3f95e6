"""Raw items to pictures, many at a time; what cannot be decoded is named, and too much of it stops the run."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from pydantic import PositiveInt, TypeAdapter

from e2ed2.data.batch import Picture
from e2ed2.data.buckets import Shape, micro_conditioning, nearest_shape
from e2ed2.data.image_files import decode_image
from e2ed2.data.items import RawItem, SkippedItem, Source
from e2ed2.system.errors import UserError, one_line
from e2ed2.system.files import locked, write_file
from e2ed2.system.paths import cache_dir

Progress = Callable[[int, int], None]
Verdict = tuple[PositiveInt, PositiveInt] | tuple[str, str] | None  # (height, width), (place, reason), not known
VERDICTS = TypeAdapter(list[Verdict])

SCANNED_AT_A_TIME = 64  # between two reports of progress
CAPTIONING = (
    "; put `name.txt` beside `name.jpg`, or metadata.jsonl or .csv with file_name and text into the folder, "
    "or name the right data.caption_column"
)
NUM_NAMED = 5  # bad files in an error's one line; its notes hold them all


def decode_item(item: RawItem | SkippedItem, shapes: Sequence[Shape]) -> Picture | SkippedItem:
    """The item fitted to the shape that its sides are nearest to, or why it cannot be."""
    if isinstance(item, SkippedItem):
        return item
    try:
        image, (height, width) = decode_image(item.image, shapes)
    except (OSError, ValueError) as error:
        return SkippedItem(item.place, _reason(error))
    shape = shapes[nearest_shape(height, width, shapes)]
    micro = micro_conditioning(height, width, shape)
    return Picture(item.key, fitted_tensor(image, shape), item.captions, micro)


def read_image(file: Path | bytes, size: int) -> torch.Tensor:
    """Decode an image file (first frame) to uint8 [3, size, size], upright, on white, cropped to its centre.

    Raises:
        OSError, ValueError: as `decode_image`.
    """
    image, _ = decode_image(file, [(size, size)])
    return fitted_tensor(image, (size, size))


def fitted_tensor(image: Image.Image, shape: tuple[int, int]) -> torch.Tensor:
    """RGB image to uint8 [3, *shape] (height, width): resized to cover `shape` (Lanczos), centre kept.

    Only the part that is kept is resampled, so nothing is rounded to whole pixels between resize and crop, and a
    1 x 60000 image costs no more than a square one.
    """
    fitted = ImageOps.fit(image, (shape[1], shape[0]), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(fitted).copy()).permute(2, 0, 1)


def scan(
    source: Source, num_workers: int, progress: Progress | None = None
) -> tuple[list[tuple[int, int] | None], list[SkippedItem]]:
    """Decode everything once, by threads. What was found is kept in the cache folder as long as the source is the same.

    A file that could not be read, which a disk or a right may be the cause of, is read again by the next scan.

    Returns:
        Upright height and width of each row, None where it is unusable; and the unusable ones.
    """
    path = cache_dir() / "scans" / f"{sha256(source.fingerprint().encode()).hexdigest()[:24]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent):  # the first of several processes does it
        found = _kept(path, len(source))
        missing = [row for row, verdict in enumerate(found) if verdict is None]
        if missing:
            found, unread = _scan(source, found, missing, num_workers, progress)
            kept = [None if row in unread else verdict for row, verdict in enumerate(found)]
            write_file(path, json.dumps(kept).encode())
    sides: list[tuple[int, int] | None] = []
    skipped = []
    for verdict in found:
        assert verdict is not None  # all are known by now
        sides.append(None if isinstance(verdict[0], str) else (verdict[0], int(verdict[1])))
        if isinstance(verdict[0], str):
            skipped.append(SkippedItem(verdict[0], str(verdict[1])))
    return sides, skipped


def _kept(path: Path, num_items: int) -> list[Verdict]:
    """What an earlier scan found; nothing where its file is missing or damaged."""
    try:
        found = VERDICTS.validate_json(path.read_text(), strict=True)
    except (OSError, ValueError):
        found = []
    return found if len(found) == num_items else [None] * num_items


def _scan(
    source: Source, found: Sequence[Verdict], missing: Sequence[int], num_workers: int, progress: Progress | None
) -> tuple[list[Verdict], set[int]]:
    """`found` with the verdicts of the rows `missing`, and the rows left unread."""
    unread = set()

    def measure(row: int) -> Verdict:
        item = source[row]
        if isinstance(item, SkippedItem):
            return one_line(item.path), one_line(item.reason)
        try:
            return decode_image(item.image, [(1, 1)])[1]
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                unread.add(row)
            return one_line(item.place), one_line(_reason(error))

    found = list(found)
    with ThreadPoolExecutor(num_workers) as pool:
        for first in range(0, len(missing), SCANNED_AT_A_TIME):
            rows = missing[first : first + SCANNED_AT_A_TIME]
            for row, verdict in zip(rows, pool.map(measure, rows), strict=True):
                found[row] = verdict
            if progress:
                progress(first + len(rows), len(missing))
    return found, unread


def _reason(error: Exception) -> str:
    return f"cannot be read ({error.strerror or error})" if isinstance(error, OSError) else str(error)


def check_share(
    skipped: Sequence[SkippedItem], num_skipped: int, num_items: int, max_bad_fraction: float, where: str
) -> None:
    """Raise UserError, its notes listing all of `skipped`, when more than `max_bad_fraction` of the items are bad."""
    share = num_skipped / num_items
    if share < 1 and share <= max_bad_fraction:
        return
    named = "; ".join(map(str, skipped[:NUM_NAMED]))
    if num_skipped > NUM_NAMED:
        named += f"; and {num_skipped - NUM_NAMED} more"
    if num_skipped == num_items:
        remedy = CAPTIONING if any("caption" in item.reason for item in skipped) else ""
        error = UserError(f"data.path '{where}': none of {num_items} items is usable: {named}{remedy}")
    else:
        error = UserError(
            f"data.path '{where}': {num_skipped} of {num_items} items ({share:.1%}) are unusable, "
            f"data.max_bad_fraction allows {max_bad_fraction:.1%}; mend or remove them: {named}"
        )
    error.add_note("\n".join(map(str, skipped)))
    raise error
