"""Tensors as pictures, pictures side by side, and pictures as PNG files."""

import io
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from tempfile import NamedTemporaryFile

import torch
from PIL import Image, ImageDraw
from PIL.ImageFont import FreeTypeFont, load_default, truetype
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from e2ed2.system.errors import UserError, printable

CELL, GAP, HEAD, ROW_GAP = 256, 6, 22, 14  # pixels: a cell's side, between cells, a line of text, between rows
LEAST_CELL, LEAST_WIDTH = 128, 420  # pixels: the longer side of a shown picture, and a sheet that has room for words
FONT_SIZE, MAX_LINES, MAX_LETTERS = 14, 3, 500  # of a caption
FONTS = ("DejaVuSans.ttf", "Arial Unicode.ttf")  # of Linux and macOS; Pillow's own has English alone

Box = tuple[int, int, int, int]  # left, top, right, bottom


def image_grid(images: Tensor, columns: int) -> Image.Image:
    """uint8 [N, 3, H, W] -> one picture, row by row, white where N does not fill the last row."""
    count, _, height, width = images.shape
    rows = -(-count // columns)
    grid = torch.full((rows * columns, 3, height, width), 255, dtype=torch.uint8)
    grid[:count] = images
    tiled = grid.view(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2)
    return Image.fromarray(tiled.reshape(rows * height, columns * width, 3).numpy())


def png_bytes(image: Image.Image, about: PngInfo | None = None) -> bytes:
    """A picture as a PNG file's content, with `about` as its texts."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=about)
    return buffer.getvalue()


def svg_png(svg: str, zoom: int = 3) -> bytes:
    """An SVG file as a PNG file's content, its words in the font of captions."""
    import resvg_py

    with NamedTemporaryFile(suffix=".ttf") as file:  # the font of a Pillow without others lies in no file
        path = font().path
        if isinstance(path, io.BytesIO):
            file.write(path.getvalue())
            file.flush()
        files = [file.name if isinstance(path, io.BytesIO) else str(path)]
        return bytes(resvg_py.svg_to_bytes(svg, zoom=zoom, font_files=files, sans_serif_family=font().getname()[0]))


def to_picture(image: Tensor) -> Image.Image:
    """uint8 [3, H, W] -> a picture."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


@dataclass(frozen=True)
class Zoom:
    """A square of each picture to show enlarged beside it, in shares of its sides: left, top, side."""

    left: float
    top: float
    side: float

    def __post_init__(self) -> None:
        if not (0 < self.side <= 1 and 0 <= self.left <= 1 - self.side and 0 <= self.top <= 1 - self.side):
            raise UserError(f"--zoom {self.left},{self.top},{self.side}: LEFT,TOP,SIDE must lie within 0 to 1")

    def crop(self, picture: Image.Image) -> Image.Image:
        """The square, enlarged without smoothing to the picture's own width."""
        left, top = self.left * picture.width, self.top * picture.height
        box = (left, top, left + self.side * picture.width, top + self.side * picture.height)
        return picture.resize((picture.width, picture.width), Image.Resampling.NEAREST, box=box)


def labelled_grid(columns: Mapping[str, Sequence[tuple[str, Tensor]]], zoom: Zoom | None = None) -> Image.Image:
    """One picture: a column a model under its name, a row a prompt under its words, with `zoom` two cells a model."""
    rows: list[tuple[str, list[Image.Image]]] = []
    for images in zip(*columns.values(), strict=True):
        pictures = [to_picture(image) for _, image in images]
        rows.append((images[0][0], [_cell(picture, zoom) for picture in pictures]))
    return captioned(rows, list(columns))[0]


def captioned(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], heads: Sequence[str] = ()
) -> tuple[Image.Image, list[list[Box]]]:
    """A sheet of rows of pictures, each under its caption: wrapped, and cut with dots where it is very long.

    Letters that no font here has become boxes.

    Args:
        rows: (caption, its pictures); an empty caption takes no room. heads: names of the columns.
    Returns:
        The sheet, and where each picture lies on it.
    """
    cell = max((picture.width for _, pictures in rows for picture in pictures), default=CELL)
    width = max(LEAST_WIDTH, max([len(heads), *(len(pictures) for _, pictures in rows)]) * (cell + GAP) - GAP)
    words = [wrapped(caption, width - 4) for caption, _ in rows]
    heights = [max(picture.height for picture in pictures) for _, pictures in rows]
    top = HEAD if heads else 0
    height = top + sum(HEAD * len(lines) for lines in words) + sum(heights) + ROW_GAP * max(len(rows) - 1, 0)
    sheet = Image.new("RGB", (width, height), "white")
    draw, places = ImageDraw.Draw(sheet), []
    for column, name in enumerate(heads):
        draw.text((column * (cell + GAP) + 2, 2), "".join(wrapped(name, cell - 4, 1)), "black", font())
    for (_, pictures), lines, row_height in zip(rows, words, heights, strict=True):
        for line in lines:
            draw.text((2, top + 2), line, "#555555", font())
            top += HEAD
        boxes = [(x := i * (cell + GAP), top, x + p.width, top + p.height) for i, p in enumerate(pictures)]
        for picture, box in zip(pictures, boxes, strict=True):
            sheet.paste(picture, box)
        places.append(boxes)
        top += row_height + ROW_GAP
    return sheet, places


def shown(picture: Image.Image) -> Image.Image:
    """At a size to look at: its longer side from `LEAST_CELL` to `CELL`, small pixels kept visible."""
    side = max(picture.size)
    if side > CELL:
        size = [max(1, round(length * CELL / side)) for length in picture.size]
        return picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    times = -(-LEAST_CELL // side)
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def wrapped(text: str, width: int, most: int = MAX_LINES) -> list[str]:
    """Words in at most `most` lines of `width` pixels, broken between words where that goes; dots say what was cut."""
    left = printable(text)
    left = left if len(left) <= MAX_LETTERS else left[:MAX_LETTERS] + "..."
    lines: list[str] = []
    while left:
        if len(lines) == most - 1 and font().getlength(left) > width:
            return [*lines, left[: _fitting(left, width - font().getlength("..."))].rstrip() + "..."]
        count = _fitting(left, width)
        space = left.rfind(" ", 0, count + 1)
        count = space if count < len(left) and space > 0 else count
        lines.append(left[:count])
        left = left[count:].lstrip()
    return lines


def _fitting(text: str, width: float) -> int:
    """How many letters of `text` fit into `width` pixels, one at least."""
    counts = range(len(text) + 1)
    return max(1, bisect_right(counts, width, key=lambda count: font().getlength(text[:count])) - 1)


@lru_cache(maxsize=1)
def font() -> FreeTypeFont:
    """What captions are written in: the widest font that is found."""
    for name in FONTS:
        with suppress(OSError):
            return truetype(name, FONT_SIZE)
    found = load_default(FONT_SIZE)
    assert isinstance(found, FreeTypeFont)  # a size was asked
    return found


def _cell(picture: Image.Image, zoom: Zoom | None) -> Image.Image:
    """A picture at the cell's size, with `zoom` its square beside it."""
    cells = [picture, zoom.crop(picture)] if zoom else [picture]
    sheet = Image.new("RGB", (CELL * len(cells), CELL))
    for i, cell in enumerate(cells):
        sheet.paste(_fitted(cell), (i * CELL, 0))
    return sheet


def _fitted(picture: Image.Image) -> Image.Image:
    """At the cell's size: small pictures keep their pixels visible, large ones are smoothed."""
    grows = picture.width < CELL
    return picture.resize((CELL, CELL), Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS)
