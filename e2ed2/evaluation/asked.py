"""What a protocol is, and what it asks on this machine. Its kind (`protocols.py`) says where all that is from.

A protocol's hash covers everything that can move a figure, the contents of prompts and reference and the weights of the
networks included, so that figures of different protocols never meet in one column.
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from torch import Tensor

from e2ed2.data.image_set import ImageSet
from e2ed2.evaluation.features.extractors import EXTRACTORS, Extractor
from e2ed2.evaluation.metrics.intervals import Groups
from e2ed2.evaluation.metrics.neighbourhoods import NEAREST_K
from e2ed2.recipe.fields import Count
from e2ed2.sampling.generate import Request
from e2ed2.system.readers.typed import Part
from e2ed2.system.watch import Watch


def _known_network(name: str) -> str:
    if name not in EXTRACTORS:
        raise ValueError(f"must be one of {', '.join(EXTRACTORS)}")
    return name


class Images(Part):
    """Both sets are brought to `size` pixels a side, None for as they are, from their central square.

    Attributes:
        enlarge_reference: whether real images may be smaller than that; samples never may.
    """

    size: Count | None = None
    resample: Literal["lanczos", "bicubic"] = "lanczos"
    enlarge_reference: bool = False


class Networks(Part):
    """What is measured with: a folder or hub id in transformers' format; for Inception its file, "" to fetch it.

    Attributes:
        features: the one that `kernel_distance`, `frechet_distance`, `precision`, `recall`, `density`, `coverage` and
            `authenticity` are measured in; `efficientnet` and `resnet` come with pip and need no hub.
    """

    features: Annotated[str, AfterValidator(_known_network)] = "dinov2"
    inception: str = ""
    clip: str = "openai/clip-vit-large-patch14"
    clip_prefix: str = ""
    clip_cmmd: str = "openai/clip-vit-large-patch14-336"
    dinov2: str = "facebook/dinov2-large"
    pickscore: str = "yuvalkirstain/PickScore_v1"


@dataclass(frozen=True)
class RealImages:
    """A set of real images.

    Attributes:
        rows: those that count; None for all. Features are kept of the whole set, whatever counts.
        groups: what ties the images that count together, such as the emoji they draw; None where nothing does.
        labels: of the images that count, such as their style.
        statistics: network -> mean [D] and covariance [D, D] of its features over a whole data set, of which the
            images are a part.
    """

    images: ImageSet
    rows: list[int] | None = None
    groups: Groups = None
    labels: list[str] | None = None
    statistics: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images) if self.rows is None else len(self.rows)


@dataclass(frozen=True)
class Asked:
    """What one evaluation asks on this machine, and compares with.

    Attributes:
        name: of the protocol, as it was given.
        prompts: one for each image, samples of a prompt adjacent.
        real: `reference`, and `training` where the protocol has one.
        reference: names the reference in every result.
        metrics: those of the protocol that can be measured here.
        notes: on metrics that so few images say little of.
        floors: name -> what no model can be expected to beat.
        of_classes: whether the prompts are all of the model's classes by their numbers, no draw of captions: images
            count one by one in intervals.
    """

    name: str
    protocol: "Protocol"
    prompts: list[str]
    samples_per_prompt: int
    real: dict[str, RealImages]
    reference: str
    metrics: list[str]
    notes: list[str]
    floors: Mapping[str, Callable[[], "Floor"]] = field(default_factory=dict)
    of_classes: bool = False

    def requests(self, seed: int) -> list[Request]:
        """Image i has seed `seed` 1,000,000 + i."""
        return [Request(prompt, seed * 1_000_000 + i) for i, prompt in enumerate(self.prompts)]


@dataclass(frozen=True)
class Floor:
    """Images that stand in the place of samples, uint8 [N, 3, H, W], and what they are asked and compared with."""

    asked: Asked
    images: Tensor
    images_per_second: float | None = None


class Protocol(Part):
    """What every protocol has; where prompts and real images come from is each kind's own."""

    images: Images = Images()
    networks: Networks = Networks()
    neighbours: Count = NEAREST_K  # of precision, recall, density and coverage
    metrics: Annotated[list[str], Field(min_length=1)]

    @property
    @abstractmethod
    def default_num_images(self) -> int:
        """How many are made where nobody says."""

    @abstractmethod
    def load(self, name: str, num_images: int | None, data: Path | None, watch: Watch) -> Asked:
        """Prompts and real images, everything checked that can be before an image is made.

        Args:
            name: of the protocol, as it was given. num_images: to make; None for the protocol's own number.
            data: the folder that a protocol's paths are relative to.
        Raises:
            UserError: something is missing, unreadable or of another number than the protocol says.
        """

    def facts(self, asked: Asked, real_sha256: Mapping[str, str], formats: str) -> dict[str, Any]:
        """All that must be equal for two figures to be comparable, less the networks; no seed of noise is among it.

        Args:
            formats: of the samples' files: what a lossy one leaves is in the figures.
        """
        changed = {} if self.neighbours == NEAREST_K else {"neighbours": self.neighbours}
        return changed | {
            "prompts_sha256": facts_sha256({"prompts": asked.prompts}),
            "num_images": len(asked.prompts),
            "samples_per_prompt": asked.samples_per_prompt,
            "images": {"format": formats, **self.images.model_dump()},
            "real_sha256": {kind: real_sha256[kind] for kind in asked.real},
            "clip_prefix": self.networks.clip_prefix,
        }

    def network_facts(self, networks: Mapping[str, Extractor]) -> dict[str, Any]:
        """The networks that measured, by their weights."""
        return {"networks": {name: [n.name, n.weights_sha256] for name, n in sorted(networks.items())}}


def facts_sha256(facts: dict[str, Any]) -> str:
    """The hash of all that must be equal for two figures to be comparable."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
