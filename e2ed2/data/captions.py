"""Captions without their images, in order, from the files that the field keeps them in.

A `.txt` of one caption a line, `.jsonl` or `.csv` rows with `text`, COCO's `captions_*.json`, a `.json` of
`{id: {"prompt": ...}}`, or a folder of captioned images. What cannot be read ends in an error: none is left out.
"""

import csv
import io
from pathlib import Path
from typing import Any

from e2ed2.data.sources.folder import FolderSource, list_images
from e2ed2.system.errors import UserError
from e2ed2.system.readers.json_file import parse_json
from e2ed2.system.readers.text import fit_text, lines_of, read_text

REMEDY = (
    "give .txt lines, .jsonl or .csv with `text` (and `file_name`, in a folder), COCO's captions JSON, or a folder of "
    "captioned images, in UTF-8"
)


def read_captions(path: Path, kind: str) -> list[str]:
    """All captions of a file or folder; of a folder one for each image, in the order of the images' paths.

    Args:
        kind: for the message: what they are for.
    Raises:
        UserError: unreadable, or one that is missing, empty or no text; names the file and the line or number.
    """
    if path.is_dir():
        return _of_folder(path, kind)
    text = read_text(path, kind, REMEDY)
    try:
        captions = READERS.get(path.suffix.lower(), lines_of)(text)
        for number, caption in enumerate(captions, 1):
            if not isinstance(caption, str) or not caption.strip():
                raise UserError(f"{kind} {path}: caption {number} is empty; give one for each, or take it out")
            fit_text(caption)
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{kind} {path}: not readable as captions ({reason}); {REMEDY}") from error
    return captions


def _of_folder(folder: Path, kind: str) -> list[str]:
    images, source = list_images(folder, kind), FolderSource(folder)
    captions = {source[row].place: source[row].captions[0] for row in range(len(source))}
    if missing := [path for path in images if path not in captions]:
        why = next((item for item in source.skipped if item.path == missing[0]), source.skipped[0])
        raise UserError(f"{kind} {why}: every image needs a caption; {REMEDY}")
    return [captions[path] for path in images]


def _of_jsonl(text: str) -> list[str]:
    captions = []
    for number, line in enumerate(lines_of(text), 1):
        try:
            captions += [parse_json(line)["text"]] if line.strip() else []
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"line {number}: {f'no {error}' if isinstance(error, KeyError) else error}") from error
    return captions


def _of_csv(text: str) -> list[str]:
    return [row["text"] for row in csv.DictReader(io.StringIO(text, newline=""), strict=True)]


def _of_json(text: str) -> list[str]:
    """COCO's file: of each image, in the order of their numbers, its first caption. Else `{id: {"prompt": ...}}`."""
    content: Any = parse_json(text)
    if "annotations" not in content:
        return [row["prompt"] for row in content.values()]
    first: dict[int, str] = {}
    for row in sorted(content["annotations"], key=lambda row: (row["image_id"], row["id"])):
        first.setdefault(row["image_id"], " ".join(row["caption"].split()))
    return list(first.values())


READERS = {".jsonl": _of_jsonl, ".csv": _of_csv, ".json": _of_json}
