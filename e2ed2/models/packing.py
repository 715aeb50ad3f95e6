"""Latents as the tokens of a transformer that sees 2x2 cells in one, and back."""

import torch
from torch import Tensor
from torch.nn import functional as F


def pack(x: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h / 2 * w / 2, 4 C]."""
    return F.pixel_unshuffle(x, 2).flatten(2).mT


def unpack(tokens: Tensor, like: Tensor) -> Tensor:
    """The inverse of `pack`, for latents of the shape of `like`."""
    height, width = like.shape[-2:]
    return F.pixel_shuffle(tokens.mT.unflatten(2, (height // 2, width // 2)), 2)


def places(like: Tensor) -> Tensor:
    """(0, row, column) of each token of packed latents [B, C, h, w], float [h / 2 * w / 2, 3]."""
    height, width = like.shape[-2:]
    parts = (torch.arange(count, device=like.device, dtype=like.dtype) for count in (1, height // 2, width // 2))
    return torch.cartesian_prod(*parts)
