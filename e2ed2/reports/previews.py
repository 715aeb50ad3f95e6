"""A run's previews for its page: before and after, and over time, each picture under its caption."""

from pathlib import Path
from typing import Any

from PIL import Image

from e2ed2.data.batch import spread
from e2ed2.reports.page import data_uri
from e2ed2.system.drawing.pictures import png_bytes
from e2ed2.system.drawing.sheets import read_sheet

NUM_STEPS = 6  # previews, the first and the last among them
NUM_PROMPTS, NUM_FOLLOWED = 12, 6  # captions before and after, and over time
MAX_SIDE = 160  # pixels of a picture on the page

Row = tuple[str, dict[str, Image.Image]]
NOTHING: dict[str, Any] = {"prompts": [], "beside": "real", "steps": [], "followed": [], "grids": []}


def previews(folder: Path) -> dict[str, Any]:
    """What `samples/` of a run holds, evenly over the training.

    Returns:
        `prompts`: caption, picture `beside`, before and after. `followed`: caption, that picture, one at each of
        `steps`. `grids`: (step, picture) of files that do not say what is on them, those of earlier versions.
    """
    paths = {int(path.stem[5:]): path for path in folder.glob("step-*.png") if path.stem[5:].isdecimal()}
    numbers = sorted(paths)
    count = min(NUM_STEPS, len(numbers))
    steps = [numbers[round(i * (len(numbers) - 1) / max(count - 1, 1))] for i in range(count)]
    sheets = [rows for step in steps if (rows := read_sheet(paths[step]))]
    if not sheets or len(sheets) < len(steps) or any(_form(rows) != _form(sheets[0]) for rows in sheets):
        return {**NOTHING, "grids": [{"step": step, "image": data_uri(paths[step].read_bytes())} for step in steps]}
    *beside, changing = sheets[0][0][1]  # the last column is what the training changes
    prompts = [_before_and_after(sheets, i, changing) for i in _some(sheets[0], NUM_PROMPTS)]
    return {
        **NOTHING,
        "beside": beside[0] if beside else "",
        "prompts": prompts if beside and len(steps) > 1 else [],
        "steps": steps,
        "followed": [_followed(sheets, i, changing) for i in _some(sheets[0], NUM_FOLLOWED)],
    }


def _before_and_after(sheets: list[list[Row]], i: int, changing: str) -> dict[str, Any]:
    caption, pictures = sheets[0][i]
    pair = ("same noise", _inline(pictures[changing]), _inline(sheets[-1][i][1][changing]))
    return {"prompt": caption, "real": _inline(next(iter(pictures.values()))), "pairs": [pair]}


def _followed(sheets: list[list[Row]], i: int, changing: str) -> dict[str, Any]:
    caption, pictures = sheets[0][i]
    fixed = [_inline(picture) for name, picture in pictures.items() if name != changing]
    return {"caption": caption, "pictures": fixed + [_inline(rows[i][1][changing]) for rows in sheets]}


def _some(rows: list[Row], count: int) -> list[int]:
    return spread(len(rows), count).tolist()


def _form(rows: list[Row]) -> list[tuple[str, list[str]]]:
    return [(caption, list(pictures)) for caption, pictures in rows]


def _inline(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    return data_uri(png_bytes(small))
