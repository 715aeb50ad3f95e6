"""The GAN term of Eq. 8: losses of both sides on logits, and the gradient penalty.

Every loss pairs what the discriminator minimises with what the sampler minimises against it:
`hinge` (Lim & Ye 2017, arXiv:1705.02894), `non_saturating` (Goodfellow et al. 2014), `least_squares` (Mao et al. 2016,
arXiv:1611.04076).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

GanLoss = Literal["hinge", "non_saturating", "least_squares"]


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, kind: GanLoss) -> Tensor:
    """Mean over the logits [B, ...] of data (to be called real) and of samples (to be called fake)."""
    if kind == "hinge":
        return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
    if kind == "non_saturating":
        return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
    return (real_logits - 1).square().mean() + fake_logits.square().mean()


def adversarial_loss(fake_logits: Tensor, kind: GanLoss) -> Tensor:
    """Mean over the logits [B, ...] of samples, which want to be called real."""
    if kind == "hinge":
        return -fake_logits.mean()
    if kind == "non_saturating":
        return F.softplus(-fake_logits).mean()
    return (fake_logits - 1).square().mean()


def r1_penalty(logits: Tensor, real: Sequence[Tensor]) -> Tensor:
    """Half the mean over images of ||grad of the summed logits||^2 (Mescheder et al. 2018, arXiv:1801.04406, Eq. 9).

    Args:
        logits: the discriminator's, summed or not, on the maps `real` [B, ...], which need a gradient.
    """
    gradients = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return 0.5 * sum((g.square().flatten(1).sum(1).mean() for g in gradients), start=logits.new_zeros(()))
