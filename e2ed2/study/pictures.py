"""Pictures that tell nothing of their model: one size in pixels, one in bytes, no metadata, random names.

A better image takes more bytes as a PNG than a blurred one. So the files of a prompt are filled up to the same length.
"""

import secrets
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from e2ed2.data.image_set import FileImages
from e2ed2.system.drawing.pictures import png_bytes, to_picture
from e2ed2.system.files import write_file
from e2ed2.system.watch import Watch, silent

FILLING = b"fiLl"  # a private chunk that readers skip
TILES, NOISE = 6, 50.0  # of a spoiled picture: tiles a side, standard deviation in levels


def common_size(paths: Sequence[Path], watch: Watch = silent) -> tuple[int, int]:
    """Width and height that all images have at least; every one is decoded, so that a broken one is met here.

    Raises:
        UserError: an image that cannot be decoded.
    """
    images, sizes = FileImages(list(paths), "study"), []
    for i in range(len(images)):
        sizes.append(images.read(i).shape[:0:-1])
        watch("reading images", i + 1, len(images))
    return min(size[0] for size in sizes), min(size[1] for size in sizes)


def read_fitted(path: Path, size: tuple[int, int]) -> Image.Image:
    """An image at that size: its centre, nothing enlarged where `size` is of `common_size`."""
    picture = to_picture(FileImages([path], "study").read(0))
    return picture if picture.size == size else ImageOps.fit(picture, size, Image.Resampling.LANCZOS)


def spoiled(picture: Image.Image, rng: Random) -> Image.Image:
    """The picture in tiles out of order, under noise: nobody who looks prefers it."""
    pixels = np.asarray(picture).astype(np.float32)
    rows = np.array_split(np.arange(pixels.shape[0]), TILES)
    columns = np.array_split(np.arange(pixels.shape[1]), TILES)
    tiles = [Image.fromarray(pixels[np.ix_(r, c)].astype(np.uint8)) for r in rows for c in columns]
    rng.shuffle(tiles)
    mixed = Image.new("RGB", picture.size)
    for tile, (row, column) in zip(tiles, ((r, c) for r in rows for c in columns), strict=True):
        mixed.paste(tile.resize((len(column), len(row))), (int(column[0]), int(row[0])))
    noise = np.random.default_rng(rng.getrandbits(64)).normal(0, NOISE, pixels.shape)
    return Image.fromarray((np.asarray(mixed) + noise).clip(0, 255).astype(np.uint8))


def write_alike(pictures: Sequence[Image.Image], folder: Path) -> list[str]:
    """Write pictures as PNG files of one length, in a random order; returns their names, which are random."""
    plain = [png_bytes(picture, _filled(0)) for picture in pictures]
    longest = max(map(len, plain))
    names = [f"{secrets.token_hex(16)}.png" for _ in pictures]
    for i in secrets.SystemRandom().sample(range(len(pictures)), len(pictures)):
        write_file(folder / names[i], png_bytes(pictures[i], _filled(longest - len(plain[i]))))
    return names


def _filled(count: int) -> PngInfo:
    about = PngInfo()
    about.add(FILLING, bytes(count))
    return about
