"""Scoring rules: any distance turned into a loss whose minimiser is a distribution, not its mean.

With d = ||a - b||^beta, 0 < beta < 2, over the whole vector the energy score is strictly proper: among all
conditional distributions it is least, in expectation, for the data's own and no other (Gneiting & Raftery
2007, Sec. 4.3). Over patches the same holds for the distribution of each patch, not for how patches go
together, unless the largest patch is the whole image.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

T = TypeVar("T")
Distance = Callable[[Tensor, Tensor], Tensor]  # two [B, ...] -> [B]


def energy_score(samples: Sequence[T], x0: T, distance: Callable[[T, T], Tensor]) -> Tensor:
    """S = (1/m) sum_i d(X_i, x0) - 1/(2 m (m - 1)) sum_{i != j} d(X_i, X_j), averaged over the batch.

    Args:
        samples: m >= 2 samples [B, ...] for each caption that share the state they started from: a tensor
            [m, B, ...], or a sequence of what `distance` takes (feature maps, say).
        x0: the data, like one of the samples.
        distance: maps two of them to [B]; Euclidean to a power below 2 makes the score strictly proper.
    Raises:
        ValueError: fewer than two samples, or shapes that do not match.
    """
    if len(samples) < 2:
        raise ValueError(f"energy score: {len(samples)} sample per caption, expected 2 or more")
    if isinstance(samples, Tensor) and isinstance(x0, Tensor) and samples.shape[1:] != x0.shape:
        raise ValueError(
            f"energy score: samples {tuple(samples.shape)}, x0 {tuple(x0.shape)}: expected [m, ...] with x0's shape"
        )
    attraction = torch.stack([distance(sample, x0) for sample in samples]).mean()
    repulsion = torch.stack([distance(a, b) for a, b in combinations(samples, 2)]).mean()
    return attraction - 0.5 * repulsion


def euclidean(beta: float = 1.0) -> Distance:
    """||a - b||^beta over all but the first dimension; the norm is divided by sqrt(number of elements)."""

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return power((a - b).square().flatten(1).mean(1), beta / 2)

    return distance


def patch_euclidean(beta: float = 1.0, sizes: tuple[int, ...] = (1, 2, 4, 8, 16)) -> Distance:
    """Mean over overlapping square patches of ||a - b||^beta (norm as in `euclidean`), then over the sizes.

    The stride is half the size. Sizes beyond the image [B, C, H, W] are cut to its shorter side, and each
    size counts once; the default reaches the whole of a 16 x 16 latent. One mean filter over the squared
    difference gives the distances of all patches of a size.
    """

    def distance(a: Tensor, b: Tensor) -> Tensor:
        squares = (a - b).square().mean(1, keepdim=True)
        limit = min(squares.shape[-2:])
        kernels = sorted({min(size, limit) for size in sizes})
        patches = [F.avg_pool2d(squares, k, stride=max(k // 2, 1)) for k in kernels]
        return torch.stack([power(p, beta / 2).flatten(1).mean(1) for p in patches]).mean(0)

    return distance


def power(squared: Tensor, exponent: float) -> Tensor:
    """squared^exponent, gradient 0 at 0: samples of a caption that start at the last step are identical."""
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0) ** exponent, 0.0)
