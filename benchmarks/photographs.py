"""A few hundred photographs with captions from a Debian package, to try how a bundled 64 px model learns photographs.

    apt-get download tuxpaint-stamps-default
    python -m benchmarks.photographs tuxpaint-stamps-default_2022.06.04-1_all.deb OUT

Made for package `tuxpaint-stamps-default` 2022.06.04-1 (Debian 12; 161 MB), GPL-2, (c) 2002-2022 Bill Kendrick:
cut-outs for the paint program Tux Paint, with descriptions. Takes the `.deb`, or a folder that it was unpacked to, and
writes OUT/{train,validation,heldout}/0001.png, its caption in 0001.txt (`red apple, photo`), as `data.source=folder`
reads it: 311 images of 290 captions, 212 of them to train on, 32 to choose settings on, 67 held out.

Kept are PNGs of folders that hold photographs, with many colours for their pixels, which drawings have not. Each is cut
to what is not transparent and put in the middle of a white square. Splits are by the name's hash, as in `emoji.styles`:
of a held-out name that an emoji has too, a bundled model has at most seen drawings.
"""

import hashlib
import io
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from e2ed2.emoji.dataset import IMAGE_SIZE, EmojiSet, percentile
from e2ed2.emoji.styles import SPLITS, write_style

FOLDER = "share/tuxpaint/stamps/"
DRAWN = {"cartoon", "easter", "military", "newyears", "roadsigns", "symbols"}  # folders of drawings, or of little else
NO_PHOTOGRAPHS = {"0_sun", "button", "clownfish", "fire", "santahat", "sedan_police", "shrimp"}  # for all their colours
MISNAMED = {
    "bluegroper": "blue groper", "broccoli": "broccoli", "cep-2": "ceps", "explosion": "explosion",
    "rambutan": "rambutan", "toilet": "toilet",
}  # fmt: skip
LEAST_COLOURS = 0.33  # distinct colours a pixel, of `COUNTED_SIDE` pixels a side at most
COUNTED_SIDE = 128
LEAST_SIDE = 40  # pixels of the longer side; less is blurred by so much enlarging
MARGIN = 2  # pixels of white around
START = re.compile(r"^(an?|another|the|our|some|two) ", re.IGNORECASE)
END = re.compile(r"[(.!?\u2014]|, (also|from) | (is|are|lets|resembles|called) ")  # of what names it; the rest explains


def files_of(source: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Path below the stamps' folder and content of each PNG and text, of a `.deb` or an unpacked folder."""
    if source.is_dir():
        for path in [*source.resolve().rglob("*.png"), *source.resolve().rglob("*.txt")]:
            yield PurePosixPath(path.as_posix().partition(FOLDER)[2]), path.read_bytes()
        return
    with source.open("rb") as file:
        find_data(file)
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            for member in tar:
                name = member.name.partition(FOLDER)[2]
                content = tar.extractfile(member) if name.endswith((".png", ".txt")) else None
                if content:
                    yield PurePosixPath(name), content.read()


def find_data(file: io.BufferedReader) -> None:
    """Moves to the start of `data.tar.xz` in a `.deb`: an `ar` archive, a header of 60 bytes before each member."""
    if file.read(8) != b"!<arch>\n":
        raise SystemExit(f"{file.name} is no Debian package; give a .deb or the folder that it was unpacked to")
    while header := file.read(60):
        if header.startswith(b"data.tar"):
            return
        size = int(header[48:58])
        file.seek(size + size % 2, io.SEEK_CUR)
    raise SystemExit(f"{file.name} holds no data.tar; download it again")


def name_of(path: PurePosixPath, description: str) -> str:
    """`A stethoscope lets your doctor listen.` -> `stethoscope`."""
    line = description.partition("\n")[0].replace("\u2019", "'")
    line = re.sub("[,\"\u201c\u201d]|\\B'|'\\B", "", END.split(line)[0]).strip()
    return MISNAMED.get(path.stem, START.sub("", line).lower())


def is_photograph(path: PurePosixPath, image: Image.Image) -> bool:
    """By the folder, the size and the count of colours; the image is RGBA."""
    if DRAWN & set(path.parts) or path.stem in NO_PHOTOGRAPHS or max(cut(image).size) < LEAST_SIDE:
        return False
    small = image.copy()
    small.thumbnail((COUNTED_SIDE, COUNTED_SIDE))
    pixels = np.asarray(small)
    colours = pixels[pixels[..., 3] > 200][:, :3]
    return len(np.unique(colours, axis=0)) >= LEAST_COLOURS * max(len(colours), 1)


def cut(image: Image.Image) -> Image.Image:
    """The part that is not transparent."""
    return image.crop(image.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())


def on_white(image: Image.Image) -> torch.Tensor:
    """uint8 [3, 64, 64], in the middle."""
    image = cut(image)
    side = round(max(image.size) * IMAGE_SIZE / (IMAGE_SIZE - 2 * MARGIN))
    canvas = Image.new("RGBA", (side, side), "white")
    canvas.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    small = canvas.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)


def photographs(source: Path) -> list[tuple[str, torch.Tensor]]:
    """Name and image of each, by path."""
    files = dict(files_of(source))
    found, seen = [], set()
    for path in sorted(path for path in files if path.suffix == ".png"):
        text = files.get(path.with_suffix(".txt"))
        image = Image.open(io.BytesIO(files[path])).convert("RGBA")
        digest = hashlib.sha256(files[path]).digest()
        if text and digest not in seen and is_photograph(path, image):  # mirrored ones have no text
            found.append((name_of(path, text.decode()), on_white(image)))
            seen.add(digest)
    return found


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    found = photographs(source)
    if not found:
        raise SystemExit(f"{source} holds no stamps; give tuxpaint-stamps-default's .deb or where it was unpacked to")
    for split, percents in SPLITS.items():
        rows = [(name, image) for name, image in found if percentile(name) in percents]
        names = [name for name, _ in rows]
        captions, styles = [f"{name}, photo" for name in names], ["photo"] * len(names)
        images = torch.stack([image for _, image in rows])
        write_style(EmojiSet(images=images, captions=captions, keys=names, styles=styles, names=names), out / split)
        shared = sum(count > 1 for count in Counter(names).values())
        print(f"{split}: {len(rows)} images of {len(set(names))} captions, {shared} of them shared")


if __name__ == "__main__":
    main()
