"""An aesthetic score where the row has none: a linear head on an image's features, as LAION's predictors are.

The same features give each image a hash of its meaning: on which sides of random planes they lie.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from safetensors import safe_open

from e2ed2.curation.items import Item
from e2ed2.curation.pipeline import HASH_BITS, ScoreConfig
from e2ed2.curation.stages.models import ONE_AT_A_TIME, ask_model, loaded
from e2ed2.system.errors import UserError, said

if TYPE_CHECKING:  # only a model needs it, and it takes two seconds
    from torch import Tensor

NAME = "score"
REMEDY = "give a safetensors file with `weight` [1, D] and `bias` [1]"


def scorer(asked: ScoreConfig) -> Callable[[Sequence[Item]], None]:
    """The stage, for one worker; without a model only `min` is asked, of the scores that rows came with."""
    model = ImageFeatures(asked) if asked.model is not None else None
    head = Head(asked.head) if asked.head is not None else None
    if model is not None and head is not None and head.width != model.width:
        raise UserError(f"score.head {asked.head}: for features of {head.width}, {asked.model} gives {model.width}")

    def score(items: Sequence[Item]) -> None:
        if model is not None:
            with ONE_AT_A_TIME:
                for item, features in ask_model(items, NAME, model, asked.batch_size, model.side):
                    item.embedding_hash = model.hash(features)
                    if item.score is None and head is not None:
                        score = head(features)
                        if math.isfinite(score):
                            item.score = score
                        else:
                            item.drop(NAME, f"the model's score is {score}")
        for item in items:
            if asked.min is not None and (item.score is None or item.score < asked.min):
                item.drop(NAME, "no score" if item.score is None else f"score below {asked.min:g}")

    return score


class ImageFeatures:
    """The image features of CLIP, SigLIP, or another network of transformers' that has `get_image_features`.

    Attributes:
        side: pixels that it looks at. width: of its features.
    Raises:
        UserError: it cannot be loaded, or has none.
    """

    def __init__(self, asked: ScoreConfig) -> None:
        from transformers import AutoImageProcessor, AutoModel

        assert asked.model is not None
        self._network = loaded(AutoModel, asked.model, asked.revision, "score.model", use_safetensors=True)
        self._processor = loaded(AutoImageProcessor, asked.model, asked.revision, "score.model")
        if not hasattr(self._network, "get_image_features"):
            raise UserError(f"score.model {asked.model}: has no image features; name a CLIP or SigLIP model")
        self._network.to(asked.device).eval()
        self._device = asked.device
        self.side = int(self._network.config.vision_config.image_size)
        self.width = len(self([Image.new("RGB", (self.side, self.side))])[0])
        self._planes = np.random.RandomState(0).standard_normal((HASH_BITS, self.width))

    def __call__(self, images: list[Image.Image]) -> "list[Tensor]":
        """Features of length one of each image, float32 [D]."""
        import torch

        pixels = self._processor(images=images, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            found: Any = self._network.get_image_features(pixel_values=pixels.to(self._device))
            features = found if isinstance(found, torch.Tensor) else found.pooler_output
            return [*torch.nn.functional.normalize(features.float(), dim=1).cpu().unbind()]

    def hash(self, features: "Tensor") -> bytes:
        """On which side of each of `HASH_BITS` planes, the same on every machine, features [D] lie."""
        return np.packbits(self._planes @ features.double().numpy() > 0).tobytes()


class Head:
    """A linear function of features.

    Raises:
        UserError: its file cannot be read, or holds none.
    """

    def __init__(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                self._weight, self._bias = file.get_tensor("weight").float(), file.get_tensor("bias").float()
        except Exception as error:  # of safetensors or the disk
            raise UserError(f"score.head {path}: cannot be read ({said(error)}); {REMEDY}") from error
        if self._weight.ndim != 2 or len(self._weight) != 1 or self._bias.numel() != 1:
            raise UserError(f"score.head {path}: weight {[*self._weight.shape]}, bias {[*self._bias.shape]}; {REMEDY}")
        self.width = self._weight.shape[1]

    def __call__(self, features: "Tensor") -> float:
        """The score of one image's features [D]."""
        return float(self._weight[0] @ features + self._bias.item())
