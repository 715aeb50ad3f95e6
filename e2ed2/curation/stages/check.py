"""Every image is decoded once: whole, one picture, of the right size; and its hashes are taken meanwhile."""

import hashlib
import io
import warnings
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from e2ed2.curation.engine import CORES, THREADS
from e2ed2.curation.hashes import HASHED_SIDE, perceptual_hashes
from e2ed2.curation.items import Item
from e2ed2.curation.pipeline import CheckConfig
from e2ed2.data.image_files import IMAGE_FORMATS, TURNED, to_rgb
from e2ed2.system.errors import said

NAME = "check"
MAY_MOVE = ("GIF", "WEBP", "PNG", "AVIF")  # formats whose further frames are a film; of others they are previews
MEGA = 1e6


class Unfit(ValueError):
    """Why an image is not used."""


def decoders() -> ThreadPoolExecutor:
    """The threads of `check`; from now on Pillow does not warn of large images."""
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is below; filters are the process's
    return ThreadPoolExecutor(min(THREADS, CORES))


def check(items: Sequence[Item], asked: CheckConfig, pool: Executor) -> None:
    """Fill in size, format and hashes of each item; drop those that are no whole, still image of the size asked for."""
    list(pool.map(partial(_check_all, asked=asked), (items[first::THREADS] for first in range(THREADS))))


def _check_all(items: Sequence[Item], asked: CheckConfig) -> None:
    looked = [(item, small) for item in items if (small := _check(item, asked)) is not None]
    smalls = np.frombuffer(b"".join(small for _, small in looked), np.uint8).reshape(-1, HASHED_SIDE, HASHED_SIDE, 3)
    for (item, _), bits in zip(looked, perceptual_hashes(smalls), strict=True):
        item.perceptual_hash = bits


def _check(item: Item, asked: CheckConfig) -> bytes | None:
    """The image as its hash sees it; None of one that was dropped."""
    try:
        content = item.read()
        item.sha256 = hashlib.sha256(content).hexdigest()
        return _look(item, content, asked)
    except Unfit as error:
        item.drop(NAME, str(error))
    except UnidentifiedImageError:
        item.drop(NAME, "not an image" if content else "empty file")
    except Image.DecompressionBombError:
        item.drop(NAME, f"more than {asked.max_megapixels:g} megapixels")
    except Exception as error:  # a broken file makes decoders raise nearly anything, SyntaxError included
        item.drop(NAME, f"cannot be decoded: {said(error)}")
    return None


def _look(item: Item, content: bytes, asked: CheckConfig) -> bytes:
    with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
        item.width, item.height, item.format = image.width, image.height, image.format
        if image.width * image.height > asked.max_megapixels * MEGA:  # before anything is unpacked
            raise Unfit(f"more than {asked.max_megapixels:g} megapixels")
        if image.format in MAY_MOVE and getattr(image, "is_animated", False):
            raise Unfit("animated")
        if min(image.size) < asked.min_side:
            raise Unfit(f"a side below {asked.min_side} pixels")
        if max(image.size) > asked.max_aspect * min(image.size):
            raise Unfit(f"sides further apart than {asked.max_aspect:g}")
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if orientation in TURNED:
            item.width, item.height = image.height, image.width
        # A JPEG is unpacked to its last byte and turned into as few pixels as the hash needs.
        image.draft(image.mode, (2 * HASHED_SIDE, 2 * HASHED_SIDE))
        image.load()
        return _small(image if orientation == 1 else ImageOps.exif_transpose(image)).tobytes()


def _small(image: Image.Image) -> Image.Image:
    """For the hash."""
    return to_rgb(image).resize((HASHED_SIDE, HASHED_SIDE), Image.Resampling.BOX, reducing_gap=2.0)
