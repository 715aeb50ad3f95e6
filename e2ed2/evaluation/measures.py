"""Every metric of a protocol over files: what it is measured in, and from how many images on it can be believed."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from e2ed2.errors import UserError
from e2ed2.evaluation import rewards
from e2ed2.evaluation.distribution import (
    NEAREST_K,
    authenticity,
    coverage,
    density,
    gaussian_kernel,
    kernel_distance,
    nearest_training,
    precision,
    recall,
)
from e2ed2.evaluation.extractors import EXTRACTORS, ClipFeatures, Extractor, clip_scores
from e2ed2.evaluation.image_set import ImageSet, stored_features
from e2ed2.evaluation.intervals import Estimate, mean_estimate
from e2ed2.evaluation.moments import frechet_from_moments, moments_of
from e2ed2.evaluation.protocols import FileProtocol
from e2ed2.paths import cache_dir
from e2ed2.watch import Watch

CMMD_UNIT = 1000  # as its authors print it


@dataclass(frozen=True)
class ImageSets:
    """The images of one evaluation: `samples`, `reference` and, for `authenticity`, `training`.

    Attributes:
        prompts: the caption of each sample.
        sha256: of each set by its name; out: where features of the samples are kept; those of real images are in the
            cache folder.
    """

    sets: dict[str, ImageSet]
    sha256: dict[str, str]
    prompts: list[str]
    out: Path


class Measurement:
    """Features of the sets, measured once when a metric first asks for them, and the networks used for that."""

    def __init__(self, protocol: FileProtocol, images: ImageSets, watch: Watch, device: str) -> None:
        self.protocol, self.images = protocol, images
        self.networks: dict[str, Extractor] = {}
        self._watch, self._device = watch, device

    def network(self, name: str) -> Extractor:
        """A network of `EXTRACTORS`, loaded once."""
        if name not in self.networks:
            self._watch(f"loading {name}", 0, 0)
            self.networks[name] = EXTRACTORS[name](self.protocol.networks, self._device)
        return self.networks[name]

    def features(self, kind: str, network: str) -> Tensor:
        """Features [N, D] of a set, memory-mapped."""
        folder = self.images.out / "features" if kind == "samples" else cache_dir() / "evaluation"
        progress = partial(self._watch, f"{kind}: {network} features")
        images, sha256 = self.images.sets[kind], self.images.sha256[kind]
        return stored_features(images, sha256, self.network(network), folder, progress)

    def clip_scores(self, network: str, scale: float | None, prefix: str = "") -> Estimate:
        """Mean score of image and caption in a CLIP; a scale of None is the network's own."""
        clip = self.network(network)
        assert isinstance(clip, ClipFeatures)
        texts = clip.texts([prefix + prompt for prompt in self.images.prompts])
        scores = clip_scores(self.features("samples", network), texts, clip.scale if scale is None else scale)
        return mean_estimate(scores, self.images.prompts)

    @cached_property
    def spread(self) -> Estimate:
        """Root-mean-square pixel deviation (0 to 1) between the samples of a caption, which lie side by side."""
        count = self.protocol.prompts.samples_per_prompt
        deviations, samples = [], self.images.sets["samples"]
        for start in range(0, len(samples), count):
            own = torch.stack([samples.read(i) for i in range(start, start + count)])
            deviations.append((own.double() / 255).var(0).mean().sqrt())
        return mean_estimate(torch.stack(deviations))

    def nearest_training(self, count: int) -> dict[str, list[tuple[str, Tensor]]]:
        """The samples that are nearest to a training image, and those images: columns of `grids.comparison_grid`."""
        sets = self.images.sets
        ratios, rows = nearest_training(self.features("samples", "dinov2"), self.features("training", "dinov2"))
        first = ratios.argsort()[:count].tolist()
        labels = [f"{ratios[i]:.2f}: {self.images.prompts[i]}" for i in first]
        samples = [sets["samples"].read(i) for i in first]
        training = [sets["training"].read(int(rows[i])) for i in first]
        columns = {"sample": samples, "nearest training image": training}
        return {name: list(zip(labels, images, strict=True)) for name, images in columns.items()}


@dataclass(frozen=True)
class Measure:
    """A metric over files.

    Attributes:
        function: measures it.
        enough: images from which on its size is trusted; below, `instead` is said to be better, or None if it is not.
        least: images below which it has no meaning.
    """

    function: Callable[[Measurement], Estimate]
    enough: int = 0
    instead: str | None = None
    least: int = 2 * NEAREST_K


def _frechet(network: str, m: Measurement) -> Estimate:
    samples, reference = m.features("samples", network), m.features("reference", network)
    return frechet_from_moments(moments_of(samples, m.images.prompts), moments_of(reference))


def _kid(m: Measurement) -> Estimate:
    return kernel_distance(m.features("samples", "inception"), m.features("reference", "inception"), m.images.prompts)


def _cmmd(m: Measurement) -> Estimate:
    x, y = (F.normalize(m.features(kind, "clip_cmmd"), dim=1) for kind in ("samples", "reference"))
    estimate = kernel_distance(x, y, m.images.prompts, kernel=gaussian_kernel)
    value, low, high = (CMMD_UNIT * v for v in (estimate.value, estimate.low, estimate.high))
    return Estimate(value, low, high, tuple(CMMD_UNIT * w for w in estimate.without))


def _neighbours(measure: Callable[..., Estimate], by_prompt: bool, other: str, m: Measurement) -> Estimate:
    samples, real = m.features("samples", "dinov2"), m.features(other, "dinov2")
    return measure(samples, real, groups=m.images.prompts if by_prompt else None)


def _reward(function: Callable[[list[Path], list[str]], Tensor], m: Measurement) -> Estimate:
    scores = function(m.images.sets["samples"].paths, m.images.prompts)
    if len(scores) != len(m.images.prompts):
        raise UserError(f"metric {function.__name__}: {len(scores)} scores for {len(m.images.prompts)} images")
    return mean_estimate(torch.as_tensor(scores), m.images.prompts)


MEASURES: dict[str, Measure] = {
    "fid": Measure(partial(_frechet, "inception"), 10_000, "kid"),
    "fid_legacy": Measure(partial(_frechet, "inception_legacy"), 10_000, "kid"),
    "kid": Measure(_kid),
    "fd_dinov2": Measure(partial(_frechet, "dinov2"), 10_000, "cmmd"),
    "cmmd": Measure(_cmmd),
    "precision": Measure(partial(_neighbours, precision, True, "reference"), 1000),
    "recall": Measure(partial(_neighbours, recall, False, "reference"), 1000),
    "density": Measure(partial(_neighbours, density, True, "reference"), 1000),
    "coverage": Measure(partial(_neighbours, coverage, False, "reference"), 1000),
    "authenticity": Measure(partial(_neighbours, authenticity, True, "training"), 1000),
    "clip_score": Measure(lambda m: m.clip_scores("clip", 100.0, m.protocol.networks.clip_prefix)),
    "spread": Measure(lambda m: m.spread),
    "pickscore": Measure(lambda m: m.clip_scores("pickscore", None)),
    "hpsv2": Measure(partial(_reward, rewards.hpsv2)),
    "hpsv3": Measure(partial(_reward, rewards.hpsv3)),
    "image_reward": Measure(partial(_reward, rewards.image_reward)),
}


def measure_named(name: str) -> Measure:
    """A metric of the table, or a plug-in `package.module:function` of (paths, prompts) -> scores [N], higher better.

    Raises:
        UserError: neither.
    """
    if name in MEASURES:
        return MEASURES[name]
    module, _, function = name.partition(":")
    try:
        return Measure(partial(_reward, getattr(importlib.import_module(module), function)))
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"metrics: '{name}' is not known ({error}); choose {', '.join(MEASURES)}, "
            "or a plug-in package.module:function"
        ) from error


def check_counts(protocol: FileProtocol, counts: dict[str, int]) -> list[str]:
    """Notes on metrics that so few images say little of.

    Args:
        counts: images of each set.
    Raises:
        UserError: an unknown metric, one without its images, or too few of them.
    """
    notes = []
    for name in protocol.metrics:
        measure = measure_named(name)
        if name == "authenticity" and "training" not in counts:
            raise UserError("metrics: authenticity needs `training: {path: DIR}`, what the models were trained on")
        if name == "spread" and protocol.prompts.samples_per_prompt < 2:
            raise UserError("metrics: spread needs prompts.samples_per_prompt of 2 or more")
        kind, count = min(counts.items(), key=lambda item: item[1])
        if count < measure.least:
            raise UserError(f"metrics: {name} needs at least {measure.least} images, but there are {count} ({kind})")
        if count < measure.enough:
            instead = f"; {measure.instead} is unbiased at any count" if measure.instead else ""
            notes.append(f"{name}: biased at {count} images ({kind}); compare at equal counts only{instead}")
    return notes
