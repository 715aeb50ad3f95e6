"""Every figure of an emoji protocol from images, captions and a reference set."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from e2ed2.emoji.alignment import alignment
from e2ed2.evaluation.features.efficientnet import EfficientNetFeatures, Progress
from e2ed2.evaluation.metrics.distribution import (
    NEAREST_K,
    coverage,
    frechet_distance,
    kernel_distance,
    precision,
    recall,
)
from e2ed2.evaluation.metrics.intervals import Estimate, Groups, mean_estimate, ratio_estimate, share_estimate
from e2ed2.system.errors import UserError

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
_ROW_BLOCK = 1024


@dataclass(frozen=True)
class ReferenceSet:
    """Real images to compare with.

    Attributes:
        images: uint8 [M, 3, H, W].
        features: their EfficientNet features, [M, 1280].
        groups: what ties images together (the emoji they draw), [M]; None when nothing does.
    """

    images: Tensor
    features: Tensor
    groups: Groups = None


def evaluate_images(
    images: Tensor,
    prompts: list[str],
    reference: ReferenceSet,
    features: Tensor | None = None,
    progress: Progress | None = None,
) -> dict[str, Estimate]:
    """All metrics of one set of samples.

    Args:
        images: uint8 [N, 3, H, W], the size of the reference images.
        prompts: the caption of each image; equal strings are samples of one caption.
        features: EfficientNet features of `images` [N, 1280], when the caller has them; else measured here.
        progress: called with (images done, N) while features are measured.
    Returns:
        `kernel_distance`, `frechet_distance`, `alignment`, `precision`, `recall`, `coverage`, `sharpness`, and
        `spread` where captions have several samples.
    Raises:
        UserError: counts or sizes that do not fit, too few images or captions, non-finite features.
    """
    _check(images, prompts, reference)
    if features is None:
        features = EfficientNetFeatures()(images, progress)
    real, groups = reference.features, reference.groups
    metrics = {
        "kernel_distance": kernel_distance(features, real, prompts, groups),
        "frechet_distance": frechet_distance(features, real, prompts, groups),
        "alignment": alignment(features, prompts),
        "precision": precision(features, real, groups=prompts),
        "recall": recall(features, real, groups=groups),
        "coverage": coverage(features, real, groups=groups),
    }
    if (deviation := spread(images, prompts)) is not None:
        metrics["spread"] = deviation
    metrics["sharpness"] = sharpness(images, prompts, reference)
    return metrics


def spread(images: Tensor, prompts: list[str]) -> Estimate | None:
    """How far samples of one caption lie apart: the root-mean-square deviation of a pixel, averaged over captions.

    Pixels in [0, 1]; the variance over a caption's n samples is unbiased (n - 1). None unless at least two captions
    have several samples.
    """
    rows: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(i)
    repeated = [own for own in rows.values() if len(own) > 1]
    if len(repeated) < 2:
        return None
    deviations = [(images[own].double() / 255).var(dim=0).mean().sqrt() for own in repeated]
    return mean_estimate(torch.stack(deviations))


def sharpness(images: Tensor, prompts: list[str], reference: ReferenceSet) -> Estimate:
    """Mean Laplacian energy over that of the reference: 1 is as sharp as real, blur lowers it, noise raises it."""
    return ratio_estimate(
        laplacian_energy(images), laplacian_energy(reference.images), prompts, reference.groups
    )


def laplacian_energy(images: Tensor) -> Tensor:
    """Mean square of the five-point Laplacian of luminance, pixels in [0, 1], without the rim.

    Args:
        images: uint8 [N, 3, H, W].
    Returns:
        float32 [N].
    """
    weights = torch.tensor(_LUMINANCE).view(1, 3, 1, 1)
    laplacian = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]).view(1, 1, 3, 3)
    energies = []
    for chunk in images.split(_ROW_BLOCK):
        luminance = (chunk.float() / 255 * weights).sum(1, keepdim=True)
        energies.append(F.conv2d(luminance, laplacian).square().mean((1, 2, 3)))
    return torch.cat(energies)


def nearest_styles(features: Tensor, reference_features: Tensor, reference_styles: Sequence[str]) -> list[str]:
    """The style of each image's nearest reference image, by cosine of features [N, D] and [M, D]."""
    real = F.normalize(reference_features.float(), dim=1)
    rows = [F.normalize(chunk.float(), dim=1) @ real.T for chunk in features.split(_ROW_BLOCK)]
    return [reference_styles[i] for chunk in rows for i in chunk.argmax(1).tolist()]


def style_shares(
    features: Tensor, reference_features: Tensor, reference_styles: Sequence[str], groups: Groups = None
) -> dict[str, Estimate]:
    """For prompts that name no style: share of samples nearest to each style of the reference.

    Args:
        groups: the caption of each sample.
    """
    found = nearest_styles(features, reference_features, reference_styles)
    return {
        style: share_estimate(torch.tensor([f == style for f in found]), groups)
        for style in sorted(set(reference_styles))
    }


def _check(images: Tensor, prompts: list[str], reference: ReferenceSet) -> None:
    if len(images) != len(prompts):
        raise UserError(f"{len(images)} images but {len(prompts)} prompts: every image needs its own caption")
    if len(images) < 2 * NEAREST_K:
        raise UserError(f"{len(images)} images: the metrics need at least {2 * NEAREST_K}")
    if len(set(prompts)) < 2:
        raise UserError(f"every image has the prompt {prompts[0]!r}: the intervals need at least 2 captions")
    if images.shape[1:] != reference.images.shape[1:]:
        sizes = f"{list(images.shape[1:])}, the reference {list(reference.images.shape[1:])}"
        raise UserError(f"images are {sizes}: bring them to one size, since sharpness depends on it")
