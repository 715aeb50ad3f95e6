"""What is handed to those who write images: how a generated one becomes a file that says what it is."""

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from e2ed2.sampling.model import LoadedModel
from e2ed2.system.drawing.pictures import png_bytes


@dataclass(frozen=True)
class Made:
    """What an image was made from. A sheet of several has neither prompt nor seed."""

    model: str
    model_sha256: str
    num_inference_steps: int
    nfe: int
    prompt: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Label:
    """How images become PNG files.

    Attributes:
        kinds: what is put on an image, for manifests.
        png: the content of a picture's file.
        named: those of the kinds without which a file is not taken for one that has them: its name depends on them.
    """

    kinds: tuple[str, ...]
    png: Callable[[Image.Image, Made], bytes]
    named: tuple[str, ...] = ()

    def beside(self, others: Collection[str]) -> "Label":
        """This label where files stay that bear `others`: its kinds are those that all the files bear."""
        return replace(self, kinds=tuple(kind for kind in self.kinds if kind in self.named or kind in others))


UNLABELLED = Label((), lambda picture, made: png_bytes(picture))


def made_by(model: LoadedModel, prompt: str | None = None, seed: int | None = None) -> Made:
    """What a model makes from a prompt and a seed. Of a path of this machine the last part alone is told."""
    name = Path(model.name).resolve().name if os.path.lexists(model.name) else model.name
    return Made(name, model.sha256, model.num_inference_steps, model.sampler.nfe, prompt, seed)
