"""The kernel form: the batch's samples against the batch's data in a feature space, whatever their captions.

A scoring rule compares a caption's samples with its one image; this compares two sets of points, so that it also sees
what a caption cannot tell. It knows nothing of captions: a term that does belongs beside it.

In training a sample and the image of its caption are no independent draws, nor are two samples of one caption: with
`is_paired` such pairs are left out, without which the term is in part a regression of each sample on its own image.
Where noise is assigned to images over the whole batch (optimal transport) all pairs depend on each other: a bias.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from e2ed2.objectives.perceptual import Maps


def mmd(samples: Tensor, data: Tensor, is_paired: bool = False) -> Tensor:
    """Energy distance E||X - Y|| - 1/2 E||X - X'|| - 1/2 E||Y - Y'||, unbiased.

    It is the squared MMD of the kernel that the distance induces (Sejdinovic et al. 2013, arXiv:1207.6076): zero in
    expectation for equal distributions only.

    Args:
        samples: [n, D], n >= 2. data: [k, D], k >= 2.
        is_paired: sample i and image i modulo k are of one caption, of which there are k.
    """
    to_data, to_samples = _independent(samples, data, is_paired)
    across = (_distances(samples, data) * to_data).sum() / to_data.sum()
    within = (_distances(samples, samples) * to_samples).sum() / to_samples.sum()
    return across - 0.5 * within - 0.5 * _distances(data, data).sum() / (len(data) * (len(data) - 1))


def feature_mmd(samples: Sequence[Maps], x0: Maps) -> Tensor:
    """MMD of the mean and of the deviation over the places of every map, averaged over both and over the maps.

    Args:
        samples: feature maps of m samples per caption, x0: of the data; see `perceptual.lpips`.
    """
    values = []
    for level, real in enumerate(x0):
        fake = torch.cat([maps[level] for maps in samples])
        values += [mmd(pool(fake), pool(real), is_paired=True) for pool in (_mean, _deviation)]
    return torch.stack(values).mean()


def _independent(samples: Tensor, data: Tensor, is_paired: bool) -> tuple[Tensor, Tensor]:
    """Bool [n, k] and [n, n]: the pairs of independent draws. Where each sample has its own, all but itself."""
    place, count = torch.arange(len(samples), device=samples.device), torch.arange(len(data), device=samples.device)
    if not is_paired:
        return torch.ones(len(place), len(count), dtype=torch.bool, device=place.device), place[:, None] != place
    caption = place % len(data)
    return caption[:, None] != count, caption[:, None] != caption


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean, [n, k]; the gradient of a zero distance is zero."""
    squared = (a[:, None] - b[None]).square().sum(-1)
    return torch.where(squared > 0, squared.clamp_min(1e-12).sqrt(), 0.0)


def _mean(maps: Tensor) -> Tensor:
    return maps.mean((2, 3))


def _deviation(maps: Tensor) -> Tensor:
    return (maps.var((2, 3), correction=0) + 1e-8).sqrt()
