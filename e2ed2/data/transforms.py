"""Image files of any kind to uint8 RGB tensors of a wanted shape."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")


def read_image(file: Path | bytes, size: int) -> torch.Tensor:
    """Decode an image file (first frame) to uint8 [3, size, size], upright, on white, cropped to its centre.

    Raises:
        ValueError: the file cannot be decoded completely; the message says why.
    """
    return fitted_tensor(decode_image(file), (size, size))


def decode_image(file: Path | bytes) -> Image.Image:
    """A file, or its bytes, as an upright RGB image (first frame), transparency on white.

    Raises:
        ValueError: it cannot be decoded completely; the message says why.
    """
    try:
        # Naming the formats keeps Pillow from trying its rarer decoders on a file that lies about its type.
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=IMAGE_FORMATS) as image:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise ValueError("not a PNG, JPEG, WebP, BMP or GIF image") from None
    except Exception as error:  # a broken file makes decoders raise nearly anything, SyntaxError included
        raise ValueError(f"cannot be decoded ({error or type(error).__name__})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow mode to RGB: transparency onto white, 16-bit grey scaled (not clipped) to 8 bits, CMYK by
    Pillow's formula. Embedded colour profiles are not applied.
    """
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.float32) / 257  # 65535 / 255
        return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, "white")
        canvas.alpha_composite(rgba)
        return canvas.convert("RGB")
    return image.convert("RGB")


def fitted_tensor(image: Image.Image, shape: tuple[int, int]) -> torch.Tensor:
    """RGB image to uint8 [3, *shape] (height, width): resized to cover `shape` (Lanczos), centre kept.

    Only the part that is kept is resampled, so nothing is rounded to whole pixels between resize and crop, and a
    1 x 60000 image costs no more than a square one.
    """
    fitted = ImageOps.fit(image, (shape[1], shape[0]), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(fitted).copy()).permute(2, 0, 1)
