"""Image files of any kind to upright RGB. Without torch."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from e2ed2.data.buckets import Shape, nearest_shape

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
MIN_REDUCTION = 2  # how many times the sides that are kept a JPEG is decoded at, at the least
TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


def decode_image(file: Path | bytes, shapes: Sequence[Shape]) -> tuple[Image.Image, Shape]:
    """A file, or its bytes, as an upright RGB image (first frame), transparency on white.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its sides where it then still has `MIN_REDUCTION` times those that it is
    fitted to, the nearest of `shapes`: that leaves out frequencies, and most of the time.

    Returns:
        The image, and the file's own height and width, upright.
    Raises:
        OSError: the file cannot be read.
        ValueError: it cannot be decoded completely; the message says why.
    """
    content = file if isinstance(file, bytes) else file.read_bytes()
    try:
        # Naming the formats keeps Pillow from trying its rarer decoders on a file that lies about its type.
        with Image.open(io.BytesIO(content), formats=IMAGE_FORMATS) as image:
            sides = _reduce(image, shapes) if isinstance(image, JpegImageFile) else None
            image.load()
            upright = to_rgb(ImageOps.exif_transpose(image))
            return upright, sides or (upright.height, upright.width)
    except UnidentifiedImageError:
        raise ValueError("not a PNG, JPEG, WebP, BMP, GIF, TIFF or AVIF image") from None
    except Exception as error:  # a broken file makes decoders raise nearly anything, SyntaxError included
        raise ValueError(f"cannot be decoded ({error or type(error).__name__})") from error


def _reduce(image: JpegImageFile, shapes: Sequence[Shape]) -> Shape:
    """Have a JPEG decoded at no more than is needed; returns its own height and width, upright."""
    is_turned = image.getexif().get(ExifTags.Base.Orientation) in TURNED
    height, width = image.size if is_turned else image.size[::-1]
    shape = shapes[nearest_shape(height, width, shapes)]
    scale = MIN_REDUCTION * max(shape[0] / height, shape[1] / width)
    image.draft("RGB", (math.ceil(scale * image.width), math.ceil(scale * image.height)))
    return height, width


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB: transparency onto white, 16-bit grey scaled (not clipped) to 8 bits, CMYK by
    Pillow's formula. Embedded colour profiles are not applied.

    Raises:
        ValueError: grey of 32 bits, whose range is unknown.
    """
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.float32) / 257  # 65535 / 255
        return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("32 bits a pixel, whose range is unknown: save it with 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, "white")
        canvas.alpha_composite(rgba)
        return canvas.convert("RGB")
    return image.convert("RGB")
