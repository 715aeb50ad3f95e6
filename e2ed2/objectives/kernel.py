"""Kernel forms: the batch's samples against the batch's data in a feature space, whatever their captions.

A scoring rule compares a caption's samples with its one image; these compare two sets of points, so that they also see
what a caption cannot tell. They know nothing of captions: a term that does belongs beside them.

In training a sample and the image of its caption are no independent draws, nor are two samples of one caption: with
`is_paired` such pairs are left out, without which a set term is in part a regression of each sample on its own image.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from e2ed2.objectives.perceptual import Maps

TEMPERATURES = (0.02, 0.05, 0.2)  # of the drifting field, in units of the mean distance (arXiv:2602.04770)


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


def drifting(samples: Tensor, data: Tensor, is_paired: bool = False) -> Tensor:
    """||x - sg(x + V(x))||^2 averaged: samples move along the drifting field V (arXiv:2602.04770).

    V is attraction to the data less repulsion from the other samples, with weights that are softmaxes of
    -distance / T over both; it vanishes where both are distributed alike. Points are scaled to a mean distance of
    sqrt(D), the field of each T to a mean square of 1, and the fields summed.

    Args:
        samples: [n, D], n >= 2. data: [k, D], k >= 2. is_paired: as of `mmd`.
    """
    width = samples.shape[1]
    independent = torch.cat(_independent(samples, data, is_paired), 1)
    with torch.no_grad():
        scale = _distances(samples, data).mean().clamp_min(1e-12) / width**0.5
        x, y = samples / scale, data / scale
        field = torch.zeros_like(x)
        for temperature in TEMPERATURES:
            v = _field(x, y, temperature * width**0.5, independent)
            field += v / v.square().mean().sqrt().clamp_min(1e-12)
    return (samples / scale - (x + field)).square().mean()


def of_pooled_features(
    rule: Callable[[Tensor, Tensor, bool], Tensor],
) -> Callable[[Sequence[Maps], Maps], Tensor]:
    """A paired rule on the mean and the deviation over the places of every map, averaged over both and over the maps.

    The result takes the feature maps of m samples per caption and of the data, as `perceptual.lpips` does.
    """

    def term(samples: Sequence[Maps], x0: Maps) -> Tensor:
        values = []
        for level, real in enumerate(x0):
            fake = torch.cat([maps[level] for maps in samples])
            for pool in (_mean, _deviation):
                values.append(rule(pool(fake), pool(real), True))
        return torch.stack(values).mean()

    return term


def _independent(samples: Tensor, data: Tensor, is_paired: bool) -> tuple[Tensor, Tensor]:
    """Bool [n, k] and [n, n]: the pairs of independent draws. Where each sample has its own, all but itself."""
    place, count = torch.arange(len(samples), device=samples.device), torch.arange(len(data), device=samples.device)
    if not is_paired:
        return torch.ones(len(place), len(count), dtype=torch.bool, device=place.device), place[:, None] != place
    caption = place % len(data)
    return caption[:, None] != count, caption[:, None] != caption


def _field(x: Tensor, y: Tensor, temperature: float, independent: Tensor) -> Tensor:
    """V at x [n, D]: sum_ij w_i w_j (y_i - x_j), w the geometric mean of a softmax over the points and one over x.

    Only the pairs `independent` [n, k + n] count.
    """
    logits = -torch.cat([_distances(x, y), _distances(x, x)], 1).masked_fill(~independent, torch.inf) / temperature
    weights = (logits.softmax(1) * logits.softmax(0)).sqrt()
    to_data, to_samples = weights.split([len(y), len(x)], 1)
    return (to_data * to_samples.sum(1, keepdim=True)) @ y - (to_samples * to_data.sum(1, keepdim=True)) @ x


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean, [n, k]; the gradient of a zero distance is zero."""
    squared = (a[:, None] - b[None]).square().sum(-1)
    return torch.where(squared > 0, squared.clamp_min(1e-12).sqrt(), 0.0)


def _mean(maps: Tensor) -> Tensor:
    return maps.mean((2, 3))


def _deviation(maps: Tensor) -> Tensor:
    return (maps.var((2, 3), correction=0) + 1e-8).sqrt()
