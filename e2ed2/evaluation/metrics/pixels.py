"""What pixels tell without a network: how far samples of a caption lie apart, and how sharp they are."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from e2ed2.evaluation.metrics.intervals import Estimate, Groups, mean_estimate, ratio_estimate
from e2ed2.system.errors import UserError

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601

Chunks = Iterable[Sequence[Tensor]]  # images uint8 [3, H, W], some at a time


def spread(samples: Chunks, samples_per_prompt: int) -> Estimate:
    """How far samples of one caption lie apart: the root-mean-square deviation of a pixel, averaged over captions.

    Pixels in [0, 1]; the variance over a caption's n samples, which lie side by side, is unbiased (n - 1).
    """
    deviations, own = [], []
    for chunk in samples:
        for image in chunk:
            own.append(image)
            if len(own) == samples_per_prompt:
                deviations.append((torch.stack(own).double() / 255).var(dim=0).mean().sqrt())
                own = []
    return mean_estimate(torch.stack(deviations))


def sharpness(samples: Chunks, reference: Chunks, prompts: Sequence[str], groups: Groups = None) -> Estimate:
    """Mean Laplacian energy over that of the reference: 1 is as sharp as real, blur lowers it, noise raises it.

    Args:
        prompts: the caption of each sample. groups: what ties reference images together.
    Raises:
        UserError: images of several sizes, since sharpness depends on it.
    """
    (x, sizes), (y, real_sizes) = _energies(samples), _energies(reference)
    if len(both := sizes | real_sizes) > 1:
        few = " and ".join(f"{width}x{height}" for height, width in sorted(both)[:2])
        raise UserError(f"metrics: sharpness needs images of one size, some are {few}: give the protocol images.size")
    return ratio_estimate(x, y, prompts, groups)


def laplacian_energy(images: Tensor) -> Tensor:
    """Mean square of the five-point Laplacian of luminance, pixels in [0, 1], without the rim.

    Args:
        images: uint8 [N, 3, H, W].
    Returns:
        float32 [N].
    """
    weights = torch.tensor(_LUMINANCE).view(1, 3, 1, 1)
    laplacian = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]).view(1, 1, 3, 3)
    luminance = (images.float() / 255 * weights).sum(1, keepdim=True)
    return F.conv2d(luminance, laplacian).square().mean((1, 2, 3))


def _energies(chunks: Chunks) -> tuple[Tensor, set[tuple[int, int]]]:
    """The energy of each image [N], and the sizes met."""
    energies, sizes = [], set()
    for chunk in chunks:
        for image in chunk:
            sizes.add((image.shape[1], image.shape[2]))
            energies.append(laplacian_energy(image[None]))
    return torch.cat(energies), sizes
