"""Tensors as pictures, pictures side by side, and pictures as PNG files."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from e2ed2.system.errors import UserError

CELL, GAP, HEAD = 256, 6, 22  # pixels: a cell's side, between cells, a line of text


def image_grid(images: Tensor, columns: int) -> Image.Image:
    """uint8 [N, 3, H, W] -> one picture, row by row, white where N does not fill the last row."""
    count, _, height, width = images.shape
    rows = -(-count // columns)
    grid = torch.full((rows * columns, 3, height, width), 255, dtype=torch.uint8)
    grid[:count] = images
    tiled = grid.view(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2)
    return Image.fromarray(tiled.reshape(rows * height, columns * width, 3).numpy())


def png_bytes(image: Image.Image) -> bytes:
    """A picture as a PNG file's content."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


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
    rows = len(next(iter(columns.values())))
    width = CELL * (2 if zoom else 1)
    sheet = Image.new(
        "RGB", (len(columns) * (width + GAP) - GAP, HEAD + rows * (CELL + HEAD + GAP) - GAP), "white"
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column, (name, images) in enumerate(columns.items()):
        left = column * (width + GAP)
        draw.text((left + 2, 2), _shortened(name, width), "black", font)
        for row, (prompt, image) in enumerate(images):
            top = HEAD + row * (CELL + HEAD + GAP)
            if column == 0:
                draw.text((2, top + 2), _shortened(prompt, sheet.width), "#555555", font)
            picture = to_picture(image)
            cells = [picture, zoom.crop(picture)] if zoom else [picture]
            for i, cell in enumerate(cells):
                sheet.paste(_fitted(cell), (left + i * CELL, top + HEAD))
    return sheet


def _fitted(picture: Image.Image) -> Image.Image:
    """At the cell's size: small pictures keep their pixels visible, large ones are smoothed."""
    grows = picture.width < CELL
    return picture.resize((CELL, CELL), Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS)


def _shortened(text: str, width: int) -> str:
    letters = width // 8
    return text if len(text) <= letters else text[: letters - 3] + "..."
