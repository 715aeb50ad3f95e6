"""Pictures of several models side by side (Figures 2, 3 and 7): same prompts and seeds, one model a column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from e2ed2.sampling.samples import read_manifest, read_png
from e2ed2.system.errors import UserError
from e2ed2.system.pictures import to_picture

CELL, GAP, HEAD = 256, 6, 22  # pixels: a cell's side, between cells, a line of text


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


def parse_zoom(text: str | None) -> Zoom | None:
    """`0.3,0.3,0.25` -> a `Zoom`."""
    if text is None:
        return None
    try:
        left, top, side = map(float, text.split(","))
    except ValueError as error:
        raise UserError(f"--zoom {text}: give LEFT,TOP,SIDE as shares of a picture, such as 0.3,0.3,0.25") from error
    return Zoom(left, top, side)


def common_samples(folders: Mapping[str, Path], num_prompts: int) -> dict[str, list[tuple[str, Tensor]]]:
    """Of each model, (prompt, uint8 [3, H, W]) for prompts and seeds that all have, evenly spaced over them.

    Args:
        folders: name -> a folder of samples; those without a manifest are left out.
    """
    files = {}
    for name, folder in folders.items():
        rows = read_manifest(folder).get("images", [])
        found: dict[tuple[str, int], Path] = {}
        for row in rows:  # images from elsewhere have no seed: the n-th of a prompt stands for the n-th
            again = sum(prompt == row["prompt"] for prompt, _ in found) if row["seed"] is None else row["seed"]
            found[row["prompt"], again] = folder / row["file"]
        if found:
            files[name] = found
    if not files:
        return {}
    first = next(iter(files.values()))
    shared = [key for key in first if all(key in own for own in files.values())]
    shared = list({prompt: (prompt, seed) for prompt, seed in reversed(shared)}.values())[::-1]  # a seed of each
    step = max(len(shared) / num_prompts, 1)
    chosen = [shared[int(i * step)] for i in range(min(num_prompts, len(shared)))]
    columns = {}
    for name, own in files.items():
        images = [(prompt, image) for prompt, seed in chosen if (image := read_png(own[prompt, seed])) is not None]
        if len(images) == len(chosen):
            columns[name] = images
    return columns


def comparison_grid(columns: Mapping[str, Sequence[tuple[str, Tensor]]], zoom: Zoom | None = None) -> Image.Image:
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
