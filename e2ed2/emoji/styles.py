"""Two styles that no bundled model was trained on, to move one to: Noto's drawings, and OpenMoji's lines alone.

| style | caption | images | from |
|---|---|---|---|
| `noto` | `red apple, noto style` | 1,647 | `noto/images.tar` (Apache-2.0), drawn by `noto/make.py` |
| `lineart` | `red apple, line art` | 1,627 | OpenMoji's SVGs (CC-BY-SA-4.0) without colours, drawn at first use |

A fifth of the base emoji is held out from training; for half of those no bundled model has seen the name in any style.
Another tenth, `validation`, is what settings are chosen on.
"""

import tarfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import torch

from e2ed2.data.decoding import read_image
from e2ed2.emoji.dataset import IMAGE_SIZE, EmojiSet, drawings, names_by_codepoint, percentile, svg_files
from e2ed2.system.drawing.pictures import to_picture
from e2ed2.system.errors import UserError
from e2ed2.system.files import atomic_folder

NOTO_FILE = Path(__file__).parent / "noto" / "images.tar"
Style = Literal["noto", "lineart"]
StyleSplit = Literal["train", "validation", "heldout"]
CAPTIONS = {"noto": "{}, noto style", "lineart": "{}, line art"}
SPLITS = {"heldout": range(20), "validation": range(20, 30), "train": range(30, 100)}  # percent of the base emoji
COLOURING = {"color", "color-foreground", "hair", "skin", "skin-shadow"}  # groups of an OpenMoji SVG
LEAST_INK = 0.01  # mean darkness of a line drawing; what has less lost more than its colour


def load_style(style: str, split: str, progress: Callable[[int, int], None] | None = None) -> EmojiSet:
    """A split of a style, as `dataset.load_emoji` gives its own.

    Raises:
        UserError: unknown style or split, or a package that is missing or of another version.
    """
    if style not in get_args(Style) or split not in SPLITS:
        raise UserError(f"emoji style '{style}', split '{split}': give {' or '.join(CAPTIONS)}, of {', '.join(SPLITS)}")
    images, names = _noto() if style == "noto" else _lineart(progress)
    rows = [i for i, name in enumerate(names) if percentile(name) in SPLITS[split]]
    names = [names[i] for i in rows]
    return EmojiSet(
        images=images[rows],
        captions=[CAPTIONS[style].format(name) for name in names],
        keys=[f"{style}/{name}" for name in names],
        styles=[style] * len(names),
        names=names,
    )


def write_style(data: EmojiSet, folder: Path) -> None:
    """A split as a user's folder: `0001.png`, and its caption in `0001.txt`."""
    with atomic_folder(folder) as temporary:
        for number, (image, caption) in enumerate(zip(data.images, data.captions, strict=True), start=1):
            to_picture(image).save(temporary / f"{number:04}.png")
            (temporary / f"{number:04}.txt").write_text(f"{caption}\n")


@cache
def _noto() -> tuple[torch.Tensor, list[str]]:
    """Images uint8 [N, 3, 64, 64] and names, from the file that ships."""
    images, names = [], []
    with tarfile.open(NOTO_FILE) as tar:
        files = {member.name: tar.extractfile(member) for member in tar}
        contents = {name: file.read() for name, file in files.items() if file}
    for name in contents:
        if name.endswith(".webp"):
            images.append(read_image(contents[name], IMAGE_SIZE))
            names.append(contents[name.replace(".webp", ".txt")].decode())
    return torch.stack(images), names


def _lineart(progress: Callable[[int, int], None] | None) -> tuple[torch.Tensor, list[str]]:
    images, keys = drawings("lineart", Path(__file__), _lines_of_openmoji, progress)
    ink = 1 - images.double().mean((1, 2, 3)) / 255
    kept = [i for i in range(len(keys)) if ink[i] >= LEAST_INK]
    return images[kept], [keys[i][1] for i in kept]


def _lines_of_openmoji() -> list[tuple[str, str, Path | str]]:
    names, files = names_by_codepoint(), svg_files("openmoji")
    both = sorted(set(names) & set(files))
    return [("lineart", names[points], _lines_of(files[points])) for points in both if "flag" not in names[points]]


def _lines_of(file: Path) -> str:
    """An SVG without the groups that colour it."""
    root = ElementTree.parse(file).getroot()
    for parent in list(root.iter()):
        for child in list(parent):
            if child.get("id") in COLOURING:
                parent.remove(child)
    return ElementTree.tostring(root, encoding="unicode")
