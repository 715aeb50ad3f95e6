"""Every metric of a protocol over files: what it is measured in, and from how many images on it can be believed."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from e2ed2.evaluation.features import rewards
from e2ed2.evaluation.features.extractors import EXTRACTORS, ClipFeatures, Extractor, clip_scores
from e2ed2.evaluation.features.image_set import ImageSet, Progress, store_segments, stored_features
from e2ed2.evaluation.metrics.distribution import (
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
from e2ed2.evaluation.metrics.intervals import Estimate, mean_estimate
from e2ed2.evaluation.metrics.moments import frechet_from_moments, moments_of
from e2ed2.evaluation.protocols import FileProtocol
from e2ed2.system.errors import UserError
from e2ed2.system.paths import cache_dir
from e2ed2.system.processes import Share
from e2ed2.system.watch import Watch

CMMD_UNIT = 1000  # as its authors print it


@dataclass(frozen=True)
class ImageSets:
    """The images of one evaluation: `samples` once they are made, `reference` and, for `authenticity`, `training`.

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
        return stored_features(*self._stored(kind, network))

    def store_share(self, share: Share) -> None:
        """This process' share of the features of all metrics, so that `features` finds them made.

        Of the sets that are there: before the samples are made, every network is loaded and every real image is read.
        """
        needed = [which for name in self.protocol.metrics for which in measure_named(name).features()]
        for kind, network in dict.fromkeys(needed):
            if kind in self.images.sets:
                store_segments(*self._stored(kind, network), share)
            else:
                self.network(network)

    def _stored(self, kind: str, network: str) -> tuple[ImageSet, str, Extractor, Path, Progress]:
        folder = self.images.out / "features" if kind == "samples" else cache_dir() / "evaluation"
        progress = partial(self._watch, f"{kind}: {network} features")
        return self.images.sets[kind], self.images.sha256[kind], self.network(network), folder, progress

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
        function: measures it, of a measurement and the features of each of `kinds` in `network`.
        network: of `EXTRACTORS`; None where the metric has features of its own or none.
        kinds: the sets that it reads.
        enough: images from which on its size is trusted; below, `instead` is said to be better, or None if it is not.
        least: images below which it has no meaning.
    """

    function: Callable[..., Estimate]
    network: str | None = None
    kinds: tuple[str, ...] = ("samples", "reference")
    enough: int = 0
    instead: str | None = None
    least: int = 2 * NEAREST_K

    def features(self) -> list[tuple[str, str]]:
        """(kind, network) of all that it reads."""
        return [] if self.network is None else [(kind, self.network) for kind in self.kinds]

    def __call__(self, measurement: Measurement) -> Estimate:
        """The figure."""
        return self.function(measurement, *(measurement.features(*which) for which in self.features()))


def _frechet(m: Measurement, samples: Tensor, reference: Tensor) -> Estimate:
    return frechet_from_moments(moments_of(samples, m.images.prompts), moments_of(reference))


def _kid(m: Measurement, samples: Tensor, reference: Tensor) -> Estimate:
    return kernel_distance(samples, reference, m.images.prompts)


def _cmmd(m: Measurement, samples: Tensor, reference: Tensor) -> Estimate:
    x, y = F.normalize(samples, dim=1), F.normalize(reference, dim=1)
    estimate = kernel_distance(x, y, m.images.prompts, kernel=gaussian_kernel)
    value, low, high = (CMMD_UNIT * v for v in (estimate.value, estimate.low, estimate.high))
    return Estimate(value, low, high, tuple(CMMD_UNIT * w for w in estimate.without))


def _by_prompt(neighbours: Callable[..., Estimate], m: Measurement, samples: Tensor, real: Tensor) -> Estimate:
    return neighbours(samples, real, groups=m.images.prompts)


def _by_image(neighbours: Callable[..., Estimate], m: Measurement, samples: Tensor, real: Tensor) -> Estimate:
    return neighbours(samples, real, groups=None)


def _clip_score(m: Measurement, samples: Tensor) -> Estimate:
    return _caption_fit(m, samples, "clip", 100.0, m.protocol.networks.clip_prefix)


def _pickscore(m: Measurement, samples: Tensor) -> Estimate:
    return _caption_fit(m, samples, "pickscore", None)


def _caption_fit(m: Measurement, samples: Tensor, network: str, scale: float | None, prefix: str = "") -> Estimate:
    """Mean score of image and caption in a CLIP; a scale of None is the network's own."""
    clip = m.network(network)
    assert isinstance(clip, ClipFeatures)
    texts = clip.texts([prefix + prompt for prompt in m.images.prompts])
    scores = clip_scores(samples, texts, clip.scale if scale is None else scale)
    return mean_estimate(scores, m.images.prompts)


def _spread(m: Measurement) -> Estimate:
    """Root-mean-square pixel deviation (0 to 1) between the samples of a caption, which lie side by side."""
    count = m.protocol.prompts.samples_per_prompt
    deviations, samples = [], m.images.sets["samples"]
    for start in range(0, len(samples), count):
        own = torch.stack([samples.read(i) for i in range(start, start + count)])
        deviations.append((own.double() / 255).var(0).mean().sqrt())
    return mean_estimate(torch.stack(deviations))


def _reward(function: Callable[[list[Path], list[str]], Tensor], m: Measurement) -> Estimate:
    paths = m.images.sets["samples"].paths
    scores = torch.as_tensor(function(paths, m.images.prompts))
    if len(scores) != len(paths):
        raise UserError(f"metric {function.__name__}: {len(scores)} scores for {len(paths)} images")
    if not scores.isfinite().all():
        bad = int((~scores.isfinite()).nonzero()[0])
        what = f"the score of {paths[bad]} is {float(scores[bad])}, must be finite"
        raise UserError(f"metric {function.__name__}: {what}; check that image, or leave the metric out")
    return mean_estimate(scores, m.images.prompts)


MEASURES: dict[str, Measure] = {
    "fid": Measure(_frechet, "inception", enough=10_000, instead="kid"),
    "fid_legacy": Measure(_frechet, "inception_legacy", enough=10_000, instead="kid"),
    "kid": Measure(_kid, "inception"),
    "fd_dinov2": Measure(_frechet, "dinov2", enough=10_000, instead="cmmd"),
    "cmmd": Measure(_cmmd, "clip_cmmd"),
    "precision": Measure(partial(_by_prompt, precision), "dinov2", enough=1000),
    "recall": Measure(partial(_by_image, recall), "dinov2", enough=1000),
    "density": Measure(partial(_by_prompt, density), "dinov2", enough=1000),
    "coverage": Measure(partial(_by_image, coverage), "dinov2", enough=1000),
    "authenticity": Measure(partial(_by_prompt, authenticity), "dinov2", ("samples", "training"), enough=1000),
    "clip_score": Measure(_clip_score, "clip", ("samples",)),
    "spread": Measure(_spread, kinds=("samples",)),
    "pickscore": Measure(_pickscore, "pickscore", ("samples",)),
    "hpsv2": Measure(partial(_reward, rewards.hpsv2), kinds=("samples",)),
    "hpsv3": Measure(partial(_reward, rewards.hpsv3), kinds=("samples",)),
    "image_reward": Measure(partial(_reward, rewards.image_reward), kinds=("samples",)),
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
        return Measure(partial(_reward, getattr(importlib.import_module(module), function)), kinds=("samples",))
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
        UserError: an unknown metric, one whose package is missing, one without its images, or too few of them.
    """
    notes = []
    for name in protocol.metrics:
        measure = measure_named(name)
        if name in rewards.PACKAGES:
            rewards.import_package(name)
        if name == "authenticity" and "training" not in counts:
            raise UserError("metrics: authenticity needs `training: {path: DIR}`, what the models were trained on")
        if name == "spread" and protocol.prompts.samples_per_prompt < 2:
            raise UserError("metrics: spread needs prompts.samples_per_prompt of 2 or more")
        kind, count = min(((kind, counts[kind]) for kind in measure.kinds), key=lambda item: item[1])
        if count < measure.least:
            raise UserError(f"metrics: {name} needs at least {measure.least} images, but there are {count} ({kind})")
        if count < measure.enough:
            instead = f"; {measure.instead} is unbiased at any count" if measure.instead else ""
            notes.append(f"{name}: biased at {count} images ({kind}); compare at equal counts only{instead}")
    return notes
