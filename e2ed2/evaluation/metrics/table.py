"""Every metric, one entry each: what it is called and means, which way is better, what it needs, how it is measured.

Rooms above add entries of their own. Whoever decides by a metric, prints it or draws it asks this table.
"""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from e2ed2.evaluation.features import rewards
from e2ed2.evaluation.features.extractors import ClipFeatures, clip_scores
from e2ed2.evaluation.metrics import pixels
from e2ed2.evaluation.metrics.distribution import (
    frechet_distance,
    frechet_to_gaussian,
    gaussian_kernel,
    inception_score,
    kernel_distance,
)
from e2ed2.evaluation.metrics.intervals import Estimate, mean_estimate
from e2ed2.evaluation.metrics.neighbourhoods import NEAREST_K, authenticity, coverage, density, precision, recall
from e2ed2.system.errors import UserError

if TYPE_CHECKING:
    from e2ed2.evaluation.measurement import Measurement

Measured = Estimate | dict[str, Estimate]
Scores = Callable[[list[Path], list[str]], Sequence[float] | Tensor]  # of image files and captions, one each

CMMD_UNIT = 1000  # as its authors print it
CHOICE = "features"  # the network that the protocol names


@dataclass(frozen=True)
class Metric:
    """One entry.

    Attributes:
        title, short: names, the latter for columns; `{}` in them stands for the part of a metric that has several.
        better: which way is; `shown` decides nothing. meaning: one line.
        function: of a `Measurement` and the features of each of `kinds` in `network`.
        network: of `extractors.EXTRACTORS`; None where the metric has features of its own or none.
        kinds: the sets that it reads.
        enough: images from which on its size is trusted; below, `instead` is said to be better, or None if it is not.
        least: images below which it has no meaning.
        least_samples: of a prompt.
    """

    title: str
    short: str
    better: Literal["lower", "higher", "nearer to 1", "shown"]
    meaning: str
    function: Callable[..., Measured]
    network: str | None = None
    kinds: tuple[str, ...] = ("samples", "reference")
    enough: int = 0
    instead: str | None = None
    least: int = 2 * NEAREST_K
    least_samples: int = 1

    def features(self) -> list[tuple[str, str]]:
        """(set, network) of all that it reads."""
        return [] if self.network is None else [(kind, self.network) for kind in self.kinds]

    def measure(self, name: str, m: "Measurement") -> dict[str, Estimate]:
        """Its figure under its name, or several as `name/part`."""
        found = self.function(m, *(m.features(*which) for which in self.features()))
        return {name: found} if isinstance(found, Estimate) else {f"{name}/{part}": e for part, e in found.items()}


def _between(distance: Callable[..., Estimate], m: "Measurement", samples: Tensor, reference: Tensor) -> Estimate:
    return distance(samples, reference, m.groups, m.reference.groups)


def _overlap(share: Callable[..., Estimate], m: "Measurement", samples: Tensor, reference: Tensor) -> Estimate:
    return share(samples, reference, m.groups, m.reference.groups, m.asked.protocol.neighbours)


def _inception(network: str, m: "Measurement", samples: Tensor, reference: Tensor) -> Estimate:
    """Frechet distance to the statistics of a whole data set, where the reference brings them, else to its images."""
    if (known := m.reference.statistics.get(network)) is not None:
        return frechet_to_gaussian(samples, *known, m.groups)
    return _between(frechet_distance, m, samples, reference)


def _inception_score(m: "Measurement", samples: Tensor) -> Estimate:
    network = m.network("inception_legacy")
    assert hasattr(network, "probabilities")
    return inception_score(network.probabilities(samples))


def _cmmd(m: "Measurement", samples: Tensor, reference: Tensor) -> Estimate:
    x, y = F.normalize(samples, dim=1), F.normalize(reference, dim=1)
    estimate = kernel_distance(x, y, m.prompts, m.reference.groups, kernel=gaussian_kernel)
    value, low, high = (CMMD_UNIT * v for v in (estimate.value, estimate.low, estimate.high))
    return Estimate(value, low, high, tuple(CMMD_UNIT * w for w in estimate.without))


def _authenticity(m: "Measurement", samples: Tensor, training: Tensor) -> Estimate:
    return authenticity(samples, training, m.prompts)


def _caption_fit(network: str, m: "Measurement", samples: Tensor) -> Estimate:
    """Mean score of image and caption in a CLIP: 100 times the cosine after the prefix, or as PickScore scales it."""
    clip, is_clip_score = m.network(network), network == "clip"
    assert isinstance(clip, ClipFeatures)
    prefix = m.asked.protocol.networks.clip_prefix if is_clip_score else ""
    texts = clip.texts([prefix + prompt for prompt in m.prompts])
    return mean_estimate(clip_scores(samples, texts, 100.0 if is_clip_score else clip.scale), m.prompts)


def _spread(m: "Measurement") -> Estimate:
    return pixels.spread(m.images("samples"), m.asked.samples_per_prompt)


def _sharpness(m: "Measurement") -> Estimate:
    return pixels.sharpness(m.images("samples"), m.images("reference"), m.prompts, m.reference.groups)


def _reward(name: str, scores_of: Scores, m: "Measurement") -> Estimate:
    """Mean of what a function of image files and captions gives."""
    paths = m.samples.paths
    scores = torch.as_tensor(scores_of(paths, m.prompts), dtype=torch.float64).flatten()
    if len(scores) != len(paths):
        raise UserError(f"metric {name}: {len(scores)} scores for {len(paths)} images")
    if not scores.isfinite().all():
        bad = int((~scores.isfinite()).nonzero()[0])
        what = f"the score of {paths[bad]} is {float(scores[bad])}, must be finite"
        raise UserError(f"metric {name}: {what}; check that image, or leave the metric out")
    return mean_estimate(scores, m.prompts)


def _preference(title: str, short: str, source: str, function: Callable[..., Measured]) -> Metric:
    return Metric(title, short, "higher", f"Preference score ({source}).", function, kinds=("samples",))


_kernel, _frechet = partial(_between, kernel_distance), partial(_between, frechet_distance)
METRICS: dict[str, Metric] = {
    "kernel_distance": Metric(
        "kernel distance", "KD", "lower", "How far samples and real images lie apart in the protocol's features. "
        "Unbiased at any count; forgives blur.", _kernel, CHOICE),
    "frechet_distance": Metric(
        "Fréchet distance", "FD", "lower", "The same with two Gaussians. Compare only at equal image counts.",
        _frechet, CHOICE, enough=10_000, instead="kernel_distance"),
    "fid": Metric("FID", "FID", "lower", "Fréchet distance in Inception features, clean resizing.",
                  _frechet, "inception", enough=10_000, instead="kid"),
    "fid_legacy": Metric("FID, legacy", "FIDleg", "lower", "The same with the first FID code's resizing.",
                         partial(_inception, "inception_legacy"), "inception_legacy", enough=10_000, instead="kid"),
    "sfid": Metric("sFID", "sFID", "lower", "The same in maps of a middle layer: where things are.",
                   partial(_inception, "inception_spatial"), "inception_spatial", enough=10_000),
    "inception_score": Metric(
        "inception score", "IS", "higher", "How sure Inception's classifier is of each sample, and how many classes it "
        "sees. Knows no real image.", _inception_score, "inception_legacy", ("samples",), enough=10_000),
    "kid": Metric("KID", "KID", "lower", "Kernel distance in Inception features; unbiased at any count.",
                  _kernel, "inception"),
    "fd_dinov2": Metric("FD-DINOv2", "FDdino", "lower", "Fréchet distance in DINOv2 features.",
                        _frechet, "dinov2", enough=10_000, instead="cmmd"),
    "cmmd": Metric("CMMD", "CMMD", "lower", "Kernel distance in CLIP features, times 1000; unbiased at any count.",
                   _cmmd, "clip_cmmd"),
    "precision": Metric("precision", "prec", "higher", "Share of samples that look like some real image.",
                        partial(_overlap, precision), CHOICE, enough=1000),
    "recall": Metric("recall", "recall", "higher", "Share of real images that look like some sample: variety.",
                     partial(_overlap, recall), CHOICE, enough=1000),
    "density": Metric("density", "densit", "higher", "How many real neighbourhoods hold a sample, over their size.",
                      partial(_overlap, density), CHOICE, enough=1000),
    "coverage": Metric(
        "coverage", "cover", "higher", "Share of real images with a sample in their neighbourhood; harder to fool.",
        partial(_overlap, coverage), CHOICE, enough=1000),
    "authenticity": Metric(
        "authenticity", "authen", "higher", "Share of samples that are no near copies of a training image.",
        _authenticity, CHOICE, ("samples", "training"), enough=1000),
    "clip_score": Metric("CLIP score", "CLIP", "higher", "100 times the cosine of image and caption in CLIP.",
                         partial(_caption_fit, "clip"), "clip", ("samples",)),
    "spread": Metric(
        "spread", "spread", "shown", "Pixel deviation between samples of one caption. Near zero, the model ignores its "
        "noise.", _spread, kinds=("samples",), least_samples=2),
    "sharpness": Metric(
        "sharpness", "sharp", "nearer to 1", "Fine detail relative to real images. Blur lowers it and noise raises it, "
        "so read it beside the others.", _sharpness),
    "pickscore": Metric("PickScore", "pick", "higher", "Preference score (arXiv:2305.01569).",
                        partial(_caption_fit, "pickscore"), "pickscore", ("samples",)),
    "hpsv2": _preference("HPS v2.1", "HPSv2", "arXiv:2306.09341", partial(_reward, "hpsv2", rewards.hpsv2)),
    "hpsv3": _preference("HPS v3", "HPSv3", "arXiv:2508.03789", partial(_reward, "hpsv3", rewards.hpsv3)),
    "image_reward": _preference("ImageReward", "reward", "arXiv:2304.05977",
                                partial(_reward, "image_reward", rewards.image_reward)),
}  # fmt: skip


def metric_named(name: str) -> Metric:
    """A metric of the table, or a plug-in `package.module:function` of (paths, prompts) -> scores [N], higher better.

    Raises:
        UserError: neither.
    """
    if name in METRICS:
        return METRICS[name]
    module, _, function = name.partition(":")
    try:
        scores_of = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(
            f"metrics: '{name}' is not known ({error}); choose {', '.join(METRICS)}, "
            "or a plug-in package.module:function"
        ) from error
    return replace(metric_of(name), function=partial(_reward, function, scores_of))


def metric_of(name: str) -> Metric:
    """How to read a metric of a result by its key; one that is not known, a plug-in's say, by its name."""
    name, _, part = name.partition("/") if ":" not in name else (name, "", "")
    if name not in METRICS:
        short = name.rpartition(":")[2][:7]
        is_plug_in = ":" in name
        return Metric(name, short, "higher" if is_plug_in else "shown", "", _unmeasured, kinds=("samples",))
    metric = METRICS[name]
    title, meaning = metric.title.format(part), metric.meaning.format(part)
    return replace(metric, title=title, short=metric.short.format(part[:7]), meaning=meaning)


def _unmeasured(m: "Measurement") -> Estimate:
    raise AssertionError("a metric that is only read")


def is_better(name: str, value: float, than: float) -> bool:
    """Whether one value of a metric is better than another; never where a metric is only shown."""
    better = metric_of(name).better
    if better == "nearer to 1":
        return abs(value - 1) < abs(than - 1)
    return value < than if better == "lower" else value > than if better == "higher" else False


def check_counts(names: Sequence[str], counts: dict[str, int], samples_per_prompt: int) -> list[str]:
    """Notes on metrics that so few images say little of.

    Args:
        counts: images of each set.
    Raises:
        UserError: an unknown metric, one whose package is missing, one without its images, or too few of them.
    """
    notes = []
    for name in names:
        metric = metric_named(name)
        if name in rewards.PACKAGES:
            rewards.import_package(name)
        if missing := [kind for kind in metric.kinds if kind not in counts]:
            raise UserError(f"metrics: {name} needs `{missing[0]}: {{path: DIR}}`, what the models were trained on")
        if samples_per_prompt < metric.least_samples:
            raise UserError(f"metrics: {name} needs prompts.samples_per_prompt of {metric.least_samples} or more")
        kind, count = min(((kind, counts[kind]) for kind in metric.kinds), key=lambda item: item[1])
        if count < metric.least:
            raise UserError(f"metrics: {name} needs at least {metric.least} images, but there are {count} ({kind})")
        if count < metric.enough:
            instead = f"; {metric.instead} is unbiased at any count" if metric.instead else ""
            notes.append(f"{name}: biased at {count} images ({kind}); compare at equal counts only{instead}")
    return notes
