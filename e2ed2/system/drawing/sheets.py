"""Sheets: PNG files of pictures by caption that say what lies where, so that a page can take them apart again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import Field
from torch import Tensor

from e2ed2.system.drawing.pictures import captioned, png_bytes, shown, to_picture
from e2ed2.system.errors import printable
from e2ed2.system.readers.json_file import parse_json
from e2ed2.system.readers.typed import Record, checked

KEY = "e2ed2 sheet"  # of the text in the PNG file
MAX_CAPTION = 1000  # letters kept

Pixel = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Sheet:
    """Pictures by caption.

    Attributes:
        captions: N.
        columns: by their names, such as `real` and `sample`: uint8 [N, 3, h, w].
    """

    captions: list[str]
    columns: Mapping[str, Tensor]


class _Contents(Record):
    """captions: N; columns: M; boxes: of N x M pictures, left, top, right and bottom in pixels."""

    captions: list[str]
    columns: list[str]
    boxes: list[list[Annotated[list[Pixel], Field(min_length=4, max_length=4)]]]


def sheet_png(sheet: Sheet) -> bytes:
    """A PNG file of a row a caption, pictures at a size to look at."""
    rows = [
        (caption, [shown(to_picture(images[i])) for images in sheet.columns.values()])
        for i, caption in enumerate(sheet.captions)
    ]
    picture, boxes = captioned(rows, list(sheet.columns))
    captions = [printable(caption[:MAX_CAPTION]) for caption in sheet.captions]
    about = PngInfo()
    about.add_itxt(KEY, json.dumps({"captions": captions, "columns": list(sheet.columns), "boxes": boxes}))
    return png_bytes(picture, about)


def sheet_form(path: Path) -> list[tuple[str, list[str]]] | None:
    """(caption, names of its pictures) of every row, without decoding them; None where the file is no sheet."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            contents = checked(_Contents, parse_json(str(picture.info[KEY])), "sheet")
    except (OSError, SyntaxError, ValueError, KeyError, Image.DecompressionBombError):
        return None
    return [(caption, contents.columns) for caption in contents.captions]


def read_sheet(path: Path) -> list[tuple[str, dict[str, Image.Image]]] | None:
    """(caption, pictures by column) of every row; None where the file is no sheet, or damaged."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.load()
            contents = checked(_Contents, parse_json(str(picture.text[KEY])), "sheet")  # type: ignore[attr-defined]
            rows = zip(contents.captions, contents.boxes, strict=True)
            return [
                (caption, {name: _cut(picture, box) for name, box in zip(contents.columns, boxes, strict=True)})
                for caption, boxes in rows
            ]
    except (OSError, SyntaxError, ValueError, KeyError, Image.DecompressionBombError):
        return None


def _cut(picture: Image.Image, box: list[int]) -> Image.Image:
    left, top, right, bottom = box
    if not (left < right <= picture.width and top < bottom <= picture.height):
        raise ValueError(f"{box} lies outside")
    return picture.crop((left, top, right, bottom))
