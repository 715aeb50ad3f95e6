"""Couplings: which start noise goes with which image, where the default is to draw them independently."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def optimal_transport(noise: Tensor, x0: Tensor, group_size: int | None = None) -> Tensor:
    """The noise [B, ...] in the order that makes sum_b ||noise_b - x0_b||^2 least (arXiv:2302.00482, arXiv:2304.14772).

    The assignment is exact. As a set the noise stays what it was; which noise a row gets depends on the rows it was
    assigned among. Where these have different captions, noise is no longer independent of the caption, as it will be
    at sampling.

    Args:
        x0: [B, ...], of the noise's shape.
        group_size: so many consecutive rows are assigned among themselves (default: all B); it divides B.
    """
    permuted = []
    for a, b in zip(noise.split(group_size or len(noise)), x0.split(group_size or len(x0)), strict=True):
        rows, columns = (x.detach().flatten(1).cpu().double().numpy() for x in (b, a))
        _, order = linear_sum_assignment(rows @ columns.T, maximize=True)  # the squares do not depend on the order
        permuted.append(a[torch.from_numpy(order).to(a.device)])
    return torch.cat(permuted)
