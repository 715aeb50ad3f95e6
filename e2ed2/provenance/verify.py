"""Whether an image is generated, and by what, as far as its labels tell."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from e2ed2.data.transforms import IMAGE_FORMATS
from e2ed2.provenance.metadata import read_metadata, says_generated
from e2ed2.system.errors import UserError, said
from e2ed2.system.readers.text import read_bytes

REMEDY = "give a PNG, JPEG, WebP, BMP, GIF, TIFF or AVIF image"


@dataclass(frozen=True)
class Finding:
    """What was found in one file.

    Attributes:
        generated: True where any label says so, False where a valid manifest says the contrary, None where nothing is
            found, which proves nothing.
        confidence: in that answer, 0 to 1.
        evidence: `metadata`, `c2pa`, `watermark`: what each says, None where there is none.
    """

    path: str
    generated: bool | None
    confidence: float
    evidence: dict[str, Any]


def verify(path: Path) -> Finding:
    """What the labels of an image file say.

    Raises:
        UserError: it cannot be read, or is no image.
    """
    content = read_bytes(path, "image", REMEDY)
    metadata = read_metadata(_decoded(content, path))
    generated = True if says_generated(metadata) else None
    return Finding(str(path), generated, 0.9 if generated else 0.0, {"metadata": metadata, "c2pa": None, "watermark": None})


def _decoded(content: bytes, path: Path) -> Image.Image:
    """The image, its pixels and texts in memory."""
    try:
        image = Image.open(io.BytesIO(content), formats=IMAGE_FORMATS)
        image.load()
    except Exception as error:  # a broken file makes decoders raise nearly anything
        raise UserError(f"image {path}: cannot be decoded ({said(error)}); {REMEDY}") from error
    return image
