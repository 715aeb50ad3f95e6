"""The label that `e2ed2 sample` and others hand down: metadata now, more where the extra is installed."""

from PIL import Image

from e2ed2.provenance.metadata import png_texts
from e2ed2.sampling.label import Label, Made
from e2ed2.system.drawing.pictures import png_bytes


def create_label(with_prompt: bool = True) -> Label:
    """How generated images are written.

    Args:
        with_prompt: whether the prompt is told.
    """

    def png(picture: Image.Image, made: Made) -> bytes:
        return png_bytes(picture, png_texts(made, with_prompt))

    return Label(("metadata" if with_prompt else "metadata without prompt",), png)
