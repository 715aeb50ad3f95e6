"""Scoring rules: any distance turned into a loss whose minimiser is a distribution, not its mean.

With d = ||a - b||^beta, 0 < beta < 2, over the whole vector the energy score is strictly proper: among all
conditional distributions it is least, in expectation, for the data's own and no other (Gneiting & Raftery
2007, Sec. 4.3). Over patches the same holds for the distribution of each patch, not for how patches go
together, unless the largest patch is the whole image.
"""

from collections.abc import Callable, Sequence
from itertools import combinations, product
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

T = TypeVar("T")
Distance = Callable[[Tensor, Tensor], Tensor]  # two [B, ...] -> [B]


def energy_score(samples: Sequence[T], x0: T | list[T], distance: Callable[[T, T], Tensor]) -> Tensor:
    """S = mean_{i, k} d(X_i, Y_k) - 1/2 mean_{i != j} d(X_i, X_j), averaged over the batch.

    Unbiased for any m and n; the data's own term -1/2 E d(Y, Y') of the energy distance is constant and left out.

    Args:
        samples: X, m >= 2 samples [B, ...] for each caption that share the state they started from: a tensor
            [m, B, ...], or a sequence of what `distance` takes (feature maps, say).
        x0: Y, the data, like one of the samples; or a list of n images of each caption, like that each.
        distance: maps two of them to [B]; Euclidean to a power below 2 makes the score strictly proper.
    Raises:
        ValueError: fewer than two samples, no image, or shapes that do not match.
    """
    images = x0 if isinstance(x0, list) else [x0]
    if len(samples) < 2 or not images:
        raise ValueError(f"energy score: {len(samples)} samples, {len(images)} images; expected 2 and 1 or more")
    for sample, image in product(samples, images):
        if isinstance(sample, Tensor) and isinstance(image, Tensor) and sample.shape != image.shape:
            shapes = f"a sample {tuple(sample.shape)}, an image {tuple(image.shape)}"
            raise ValueError(f"energy score: {shapes}; expected the same [B, ...]")
    attraction = torch.stack([distance(sample, image) for sample, image in product(samples, images)]).mean()
    repulsion = torch.stack([distance(a, b) for a, b in combinations(samples, 2)]).mean()
    return attraction - 0.5 * repulsion


def per_caption(rule: Callable[[list[T], list[T]], Tensor], n: int) -> Callable[[Sequence[T], T], Tensor]:
    """A scoring rule for class batches: n consecutive rows share a caption, so that it has m n samples and n images.

    Args:
        rule: of samples and images of G captions, such as `energy_score` with a distance.
    Returns:
        The rule of samples (m of [G n, ...]) and x0 [G n, ...], which are tensors or tuples of tensors.
    """

    def by_caption(samples: Sequence[T], x0: T) -> Tensor:
        return rule([part for sample in samples for part in _parts(sample, n)], _parts(x0, n))

    return by_caption


def _parts(x: Any, n: int) -> list[Any]:
    """The first rows of all groups of n, the second, ...: n of [G, ...]."""
    if isinstance(x, Tensor):
        return list(x.unflatten(0, (-1, n)).unbind(1))
    return list(zip(*(_parts(part, n) for part in x), strict=True))


def euclidean(beta: float = 1.0) -> Distance:
    """||a - b||^beta over all but the first dimension; the norm is divided by sqrt(number of elements)."""

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return power((a - b).square().flatten(1).mean(1), beta / 2)

    return distance


def patch_euclidean(beta: float = 1.0, sizes: tuple[int, ...] = (1, 2, 4, 8, 16)) -> Distance:
    """Mean over overlapping square patches of ||a - b||^beta (norm as in `euclidean`), then over the sizes.

    The stride is half the size. The shorter side of the image [B, C, H, W] is the largest square, whatever `sizes`
    holds, and one more size is the whole image where that is not square: the whole vector is what makes the rule
    strictly proper. One mean filter over the squared difference gives the distances of all patches of a size.
    """

    def distance(a: Tensor, b: Tensor) -> Tensor:
        squares = (a - b).square().mean(1, keepdim=True)
        height, width = squares.shape[-2:]
        limit = min(height, width)
        kernels = sorted({*(min(size, limit) for size in sizes), limit})
        patches = [F.avg_pool2d(squares, k, stride=max(k // 2, 1)) for k in kernels]
        if height != width:
            patches.append(squares.mean((2, 3)))
        return torch.stack([power(p, beta / 2).flatten(1).mean(1) for p in patches]).mean(0)

    return distance


def power(squared: Tensor, exponent: float) -> Tensor:
    """squared^exponent, gradient 0 at 0: samples of a caption that start at the last step are identical."""
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0) ** exponent, 0.0)
