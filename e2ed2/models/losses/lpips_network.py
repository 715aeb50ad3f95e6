"""The feature network of perceptual terms: the bundled one, or the official LPIPS with its learned layer weights."""

import pickle
from typing import Any

from torch import Tensor, nn

from e2ed2.models.losses.squeezenet import SqueezeNet, load_squeezenet
from e2ed2.system.errors import UserError


class OfficialLpips(nn.Module):
    """A backbone of the `lpips` package (Zhang et al. 2018, arXiv:1801.03924), frozen.

    Args:
        reference: an `lpips.LPIPS`.
    Attributes:
        channels: of its maps. layer_weights: [C] of each, at least 0; unit maps times their roots have LPIPS as their
            squared distance.
    """

    def __init__(self, reference: Any):
        super().__init__()
        self.reference: Any = reference.eval().requires_grad_(False)
        self.channels = tuple(reference.chns)

    @property
    def layer_weights(self) -> list[Tensor]:
        return [layer.model[-1].weight.flatten() for layer in self.reference.lins]

    def forward(self, images: Tensor) -> list[Tensor]:
        """float images [B, 3, H, W] in [-1, 1] -> maps [B, C, h, w]."""
        return list(self.reference.net(self.reference.scaling_layer(images)))


def load_lpips_network(name: str) -> SqueezeNet | OfficialLpips:
    """`bundled`, or `alex`, `vgg` or `squeeze` from the `lpips` package.

    Raises:
        UserError: the package or its weights are not there.
    """
    if name == "bundled":
        return load_squeezenet()
    field, otherwise = f"objective.perceptual_network: {name}", "or use bundled, which needs nothing"
    try:
        import lpips
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision is of another build than torch
        packages = "the packages lpips and torchvision, the latter of the build that fits your torch"
        raise UserError(f"{field} needs {packages} ({error}): pip install 'e2ed2[lpips]'; {otherwise}") from error
    try:
        return OfficialLpips(lpips.LPIPS(net=name, verbose=False))
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:  # torchvision fetches the weights
        problem = f"cannot load its weights ({' '.join(str(error).split())})"
        remedy = "connect once, or copy torch's hub cache (a damaged file there: delete it)"
        raise UserError(f"{field} {problem}: {remedy}; {otherwise}") from error
