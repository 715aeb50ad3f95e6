"""The labels that the face hands to those who write images."""

from dataclasses import replace
from importlib.util import find_spec

from PIL import Image

from e2ed2.provenance.metadata import fields_of, png_texts
from e2ed2.provenance.watermark import LEAST_SIDE, mark
from e2ed2.sampling.label import Label, Made
from e2ed2.system.drawing.pictures import png_bytes

METADATA_ALONE = "note: images get metadata alone; `pip install 'e2ed2[provenance]'` adds a signed manifest and a mark"


def has_extra() -> bool:
    """Whether manifests can be signed and read here."""
    return find_spec("c2pa") is not None


def metadata_label(with_prompt: bool = True) -> Label:
    """Metadata alone: the pixels stay what the model made, as an evaluation measures them.

    An image that is there without them stays, too: files are named as those without a label.
    """
    kinds = ("metadata" if with_prompt else "metadata without prompt",)

    def png(picture: Image.Image, made: Made) -> bytes:
        return png_bytes(picture, png_texts(fields_of(made, with_prompt)))

    return Label(kinds, png, () if with_prompt else kinds)


def full_label(with_prompt: bool = True) -> Label:
    """Metadata, a signed manifest, and a mark in the pixels of single images, as far as the extra is there.

    Args:
        with_prompt: whether metadata and manifest tell the prompt.
    Raises:
        UserError: the key cannot be had, or C2PA does not sign with it.
    """
    alone = metadata_label(with_prompt)
    if not has_extra():
        return replace(alone, named=alone.kinds)
    from e2ed2.provenance.credentials import signed
    from e2ed2.provenance.keys import signing_key

    key = signing_key()
    signed(png_bytes(Image.new("RGB", (1, 1))), {}, key)  # what C2PA refuses, it refuses before anything is sampled

    def png(picture: Image.Image, made: Made) -> bytes:
        fields = fields_of(made, with_prompt)
        marked = picture if made.seed is None else mark(picture)  # the pictures on a sheet bear their own
        return signed(png_bytes(marked, png_texts(fields)), fields, key)

    kinds = (*alone.kinds, "c2pa", f"watermark from {LEAST_SIDE} px")
    return Label(kinds, png, kinds)
