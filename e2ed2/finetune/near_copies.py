"""Samples that are copies of training images, told from other drawings of the same kind.

A copy that a model makes is at best what the autoencoder keeps of an image. So the line is drawn where it best parts
the autoencoder's copies of training images from the other training images: both are at hand.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from e2ed2.models.autoencoder import decode_all, encode_all
from e2ed2.models.folders.pipeline import load_pipeline

NUM_COPIED = 64  # training images whose copies tell what a copy is
SIDE = 32  # pixels that images are compared at: small shifts and textures count little


@dataclass(frozen=True)
class NearCopies:
    """is_copy: bool [N], of samples. nearest: [N], the training image nearest to each.

    Attributes:
        threshold: root-mean-square difference of pixels in [0, 1] up to which a sample is a copy.
        found, false: shares of the autoencoder's copies, and of other training images, within it.
    """

    is_copy: Tensor
    nearest: Tensor
    threshold: float
    found: float
    false: float


def near_copies(samples: Tensor, training: Tensor, copies: Tensor) -> NearCopies:
    """Which samples are copies.

    Args:
        samples: uint8 [N, 3, H, W]. training: [T, 3, H, W], T >= 2.
        copies: the autoencoder's, of the first training images, [C, 3, H, W] with C <= T.
    """
    x, data, kept = (_small(images) for images in (samples, training, copies))
    to_data = _distances(kept, data)
    own = to_data.diagonal().clone()
    to_data.fill_diagonal_(float("inf"))
    other = to_data.amin(1)
    levels = torch.cat([own, other]).sort().values
    parted = [((own <= level).double().mean() - (other <= level).double().mean()).item() for level in levels]
    threshold = levels[parted.index(max(parted))]
    distance, nearest = _distances(x, data).min(1)
    return NearCopies(
        distance <= threshold, nearest, threshold.item(), (own <= threshold).double().mean().item(),
        (other <= threshold).double().mean().item(),
    )  # fmt: skip


def kept_by_autoencoder(model: Path, images: Tensor) -> Tensor:
    """What the autoencoder of a model folder keeps of images, uint8 [N, 3, H, W]."""
    autoencoder = load_pipeline(model, with_text=False)[0].vae.to("cuda" if torch.cuda.is_available() else "cpu")
    with torch.inference_mode():
        return decode_all(autoencoder, encode_all(autoencoder, images)).cpu()


def _small(images: Tensor) -> Tensor:
    """Pixels in [0, 1] at `SIDE`, [N, 3 * SIDE ** 2], so scaled that a distance is a root mean square."""
    parts = [F.interpolate(part.float() / 255, size=(SIDE, SIDE), mode="area") for part in images.split(16)]
    small = torch.cat(parts).flatten(1)
    return small / small.shape[1] ** 0.5


def _distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
