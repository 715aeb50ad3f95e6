"""A run's previews for its page: before and after, over all updates, each picture under its caption."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from e2ed2.data.batch import spread
from e2ed2.reports.page import data_uri
from e2ed2.system.drawing.sheets import read_sheet, sheet_form

NUM_STEPS = 6  # previews side by side, the first and the last among them
NUM_PROMPTS, NUM_FOLLOWED = 12, 6  # captions before and after, and side by side
MAX_SIDE, QUALITY = 160, 82  # pixels of a picture on the page; of WebP
MOST_OVER, MOST_BYTES = 100, 4_500_000  # previews behind a page's slider, and their size as WebP

Form = list[tuple[str, list[str]]]  # (caption, names of its pictures), row by row
Address = Callable[[int, int, str], str]  # (step, row, column) -> where the page finds the picture
NOTHING: dict[str, Any] = {"prompts": [], "beside": "real", "steps": [], "over": [], "followed": [], "grids": []}


@dataclass(frozen=True)
class Found:
    """The previews of a run that say what is on them, all of one form.

    Attributes:
        paths: of each update, in their order.
    """

    paths: dict[int, Path]
    form: Form

    @property
    def changing(self) -> str:
        """The last column, what the training changes."""
        return self.form[0][1][-1]

    def picture(self, step: int, row: int, column: str) -> bytes:
        """A small WebP; KeyError, IndexError where there is none."""
        rows = small_pictures(self.paths[step])
        return rows[row][column]

    def inline(self, step: int, row: int, column: str) -> str:
        """The picture in a page's own text."""
        return data_uri(self.picture(step, row, column), "webp")


def find_previews(folder: Path) -> tuple[Found | None, dict[int, Path]]:
    """The previews in `samples/`, and all paths by step; None where some are damaged, of several forms, or older."""
    paths = {int(path.stem[5:]): path for path in folder.glob("step-*.png") if _is_preview(path)}
    paths = {step: paths[step] for step in sorted(paths)}
    forms = [_form(path, path.stat().st_mtime_ns) for path in paths.values()]
    if not forms or not forms[0] or not forms[0][0][1] or any(form != forms[0] for form in forms):
        return None, paths
    return Found(paths, forms[0]), paths


def previews(run_dir: Path, address: Address | None = None) -> dict[str, Any]:
    """What `samples/` of a run holds.

    Args:
        address: of pictures that lie elsewhere; by default they are in the page.
    Returns:
        `prompts`: caption, picture `beside`, before and after, and behind it `over` all of some updates, `over` too.
        `followed`: caption, that picture, one at each of `steps`. `grids`: (step, picture) of files that do not say
        what is on them.
    """
    found, paths = find_previews(run_dir / "samples")
    if found is None:
        some = evenly([*paths], NUM_STEPS)
        return {**NOTHING, "grids": [{"step": step, "image": data_uri(paths[step].read_bytes())} for step in some]}
    try:
        return _shown(found, address or found.inline, address is None)
    except (OSError, KeyError, IndexError):  # damaged behind its first lines
        return {**NOTHING, "grids": []}


def _shown(found: Found, at: Address, is_inline: bool) -> dict[str, Any]:
    changing, form, steps = found.changing, found.form, [*found.paths]
    beside = form[0][1][:-1]
    prompts = spread(len(form), NUM_PROMPTS).tolist()
    over = _over(found, prompts, steps) if is_inline else evenly(steps, MOST_OVER)
    some = evenly(steps, NUM_STEPS)
    return {
        **NOTHING,
        "beside": beside[0] if beside else "",
        "prompts": [
            {
                "prompt": form[row][0],
                "real": at(steps[0], row, beside[0]),
                "pairs": [("same noise", at(steps[0], row, changing), at(steps[-1], row, changing))],
                "over": [at(step, row, changing) for step in over],
            }
            for row in prompts
            if beside and len(steps) > 1
        ],
        "over": over,
        "steps": some,
        "followed": [
            {
                "caption": form[row][0],
                "pictures": [*(at(steps[0], row, name) for name in beside), *(at(s, row, changing) for s in some)],
            }
            for row in spread(len(form), NUM_FOLLOWED).tolist()
        ],
    }


@lru_cache(maxsize=4096)
def _form(path: Path, changed: int) -> Form | None:
    return sheet_form(path)


def _is_preview(path: Path) -> bool:
    """Whether a run wrote it: never a link, which may lead anywhere."""
    return path.stem[5:].isdecimal() and not path.is_symlink()


def _over(found: Found, rows: Sequence[int], steps: list[int]) -> list[int]:
    """The updates behind the slider of a page that holds the pictures: evenly over all, as many as it may hold."""
    size = sum(len(found.picture(steps[-1], row, found.changing)) for row in rows)
    return evenly(steps, max(2, min(MOST_OVER, MOST_BYTES // max(size, 1))))


def small_pictures(path: Path) -> list[dict[str, bytes]]:
    """The pictures of a preview by row and column, as WebP; kept, as a file of an update never changes."""
    about = path.stat()
    return _small(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=256)
def _small(path: Path, changed: int, size: int) -> list[dict[str, bytes]]:
    rows = read_sheet(path)
    if rows is None:
        raise KeyError(path)
    return [{name: webp(picture, MAX_SIDE) for name, picture in pictures.items()} for _, pictures in rows]


def webp(picture: Image.Image, side: int) -> bytes:
    """A picture at most `side` pixels a side, for a page."""
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=QUALITY, method=2)
    return buffer.getvalue()


def evenly(steps: list[int], count: int) -> list[int]:
    """At most `count`, evenly, the first and the last among them."""
    count = min(count, len(steps))
    return [steps[round(i * (len(steps) - 1) / max(count - 1, 1))] for i in range(count)]
