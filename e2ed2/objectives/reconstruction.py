"""L1, L2 and Huber between the finished samples and the data (Eq. 7, Sec. 3.2).

With independent noise and data their minimiser is one point per caption (median or mean): see scoring.py.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def l1(samples: Tensor, x0: Tensor) -> Tensor:
    """Mean absolute error of samples [m, B, ...] against x0 [B, ...]."""
    samples, x0 = _matched(samples, x0)
    return (samples - x0).abs().mean()


def l2(samples: Tensor, x0: Tensor) -> Tensor:
    """Mean squared error of samples [m, B, ...] against x0 [B, ...]."""
    samples, x0 = _matched(samples, x0)
    return (samples - x0).square().mean()


def huber(samples: Tensor, x0: Tensor, delta: float = 1.0) -> Tensor:
    """Half the square within `delta`, linear beyond; samples [m, B, ...] against x0 [B, ...]."""
    samples, x0 = _matched(samples, x0)
    return F.huber_loss(samples, x0, delta=delta)


def _matched(samples: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
    """Both [m, B, ...] in the wider of their types: huber_loss has no gradient across types."""
    if samples.ndim == 0 or samples.shape[1:] != x0.shape:
        raise ValueError(f"samples {tuple(samples.shape)}: expected [m, ...] with x0's {tuple(x0.shape)}")
    dtype = torch.promote_types(samples.dtype, x0.dtype)
    return samples.to(dtype), x0.to(dtype).expand_as(samples)
