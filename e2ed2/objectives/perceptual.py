"""LPIPS: distances between the features of images, on the same random view of both (arXiv:1801.03924, Sec. 3.2).

Images are float in [-1, 1] throughout. A feature network alone is easily fooled (grids and checkerboards cost it
nothing), so samples and data are compared under a random shift, turn, zoom and flip that they share, and an anchor
beside it, in pixels or latents, is wise.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from e2ed2.objectives.scoring import power

FeatureNetwork = Callable[[Tensor], list[Tensor]]  # images [B, 3, H, W] -> maps [B, C, h, w]
Maps = tuple[Tensor, ...]

MIN_SIDE = 96  # of the shorter side; smaller images are enlarged: ImageNet networks see little in fewer pixels


def unit_maps(network: FeatureNetwork, images: Tensor) -> Maps:
    """Feature maps [B, C, h, w] of images [B, 3, H, W], of length 1 over the channels at every place.

    Of a network with `layer_weights` ([C] of each map) they are then multiplied by the weights' roots, so that
    `feature_distance(2)` is LPIPS (arXiv:1801.03924, Eq. 1).
    """
    maps = [normalised(features) for features in network(images)]
    weights = getattr(network, "layer_weights", None)
    if weights is None:
        return tuple(maps)
    return tuple(x * w.clamp_min(0).sqrt()[:, None, None] for x, w in zip(maps, weights, strict=True))


def normalised(features: Tensor) -> Tensor:
    """[B, C, h, w] in float32, of length 1 over the channels at every place."""
    x = features.float()
    return x * x.square().sum(1, keepdim=True).clamp_min(1e-16).rsqrt()


def lpips(samples: Sequence[Maps], x0: Maps) -> Tensor:
    """Mean LPIPS distance of the m samples of each caption to the data, with layer weights 1."""
    distance = feature_distance(beta=2.0)
    return torch.stack([distance(sample, x0) for sample in samples]).mean()


def feature_distance(beta: float) -> Callable[[Maps, Maps], Tensor]:
    """Sum over the maps of the mean over places of ||a - b||^beta, over the channels: two Maps -> [B].

    beta = 2 is LPIPS with layer weights 1. As the distance of an energy score, beta < 2 is proper for the features at
    each place (scoring.py); 2 gives their mean.
    """

    def distance(a: Maps, b: Maps) -> Tensor:
        squares = [(x - y).square().sum(1) for x, y in zip(a, b, strict=True)]
        return sum((power(s, beta / 2).mean((1, 2)) for s in squares), start=squares[0].new_zeros(()))

    return distance


def random_views(images: Tensor, generator: torch.Generator, rows_per_caption: int = 1) -> Tensor:
    """The same random view of every image of a caption.

    Args:
        images: float [n, B, 3, H, W]; the n images of a caption share a view: shift to 1/8, turn to 10 degrees, zoom
            0.8 to 1.25, flip.
        generator: on the CPU.
        rows_per_caption: so many consecutive of the B rows are of one caption.
    Returns:
        float32 [n, B, 3, H', W'], H x W or, where the shorter side is below `MIN_SIDE`, in proportion so that it is
        that; the border is repeated outside.
    """
    n, batch, _, height, width = images.shape
    u = torch.rand(5, batch // rows_per_caption, generator=generator).repeat_interleave(rows_per_caption, 1)
    angle = (u[0] - 0.5) * math.radians(20)
    zoom = 1.25 ** (2 * u[1] - 1)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    flip = torch.where(u[2] < 0.5, -1.0, 1.0)
    shift = (u[3:] - 0.5) / 2  # in units of half a side
    across, down = -sin * (height / width), flip * sin * (width / height)  # half a side is a unit: no shear in pixels
    rows = [torch.stack([flip * cos, across, shift[0]], 1), torch.stack([down, cos, shift[1]], 1)]
    theta = torch.stack(rows, 1).to(images.device).expand(n, -1, -1, -1).flatten(0, 1)
    short = min(height, width)
    sides = [round(side * max(short, MIN_SIDE) / short) for side in (height, width)]
    with torch.autocast(images.device.type, enabled=False):  # places in bf16 would be pixels off in a large image
        grid = F.affine_grid(theta, [n * batch, 3, *sides], align_corners=False)
        flat = images.flatten(0, 1).float()
        views = F.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return views.unflatten(0, (n, batch))
