"""The autoencoder (Eq. 4-6): images <-> scaled latents, differentiable; of what class it is, `latent_spaces` knows."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from e2ed2.models.latent_spaces import dtype_of, space_of

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

Autoencoder = Any  # of one of the classes of `latent_spaces.SPACES`
MAX_IMAGES_AT_A_TIME = 64
PIXELS_AT_A_TIME = 2**20


def to_float(images: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] -> float in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """float [B, 3, H, W] in [-1, 1] (clipped here, at the file edge) -> uint8."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def encode(autoencoder: Autoencoder, images: Tensor) -> Tensor:
    """float images [B, 3, H, W] in [-1, 1] -> scaled latents [B, C, h, w], float32 (the mode of the posterior)."""
    return space_of(autoencoder).to_latents(autoencoder, images.to(dtype_of(autoencoder)))


def decode(autoencoder: Autoencoder, latents: Tensor) -> Tensor:
    """Scaled latents [B, C, h, w] -> float images [B, 3, H, W], about [-1, 1], not clamped."""
    return space_of(autoencoder).from_latents(autoencoder, latents)


def decoder_features(autoencoder: Autoencoder, latents: Tensor) -> list[Tensor]:
    """What the decoder makes of scaled latents [B, C, h, w] on its way: after its middle and after its first up block.

    Maps [B, C', h', w'] at the latents' own side and, as a rule, at twice it; the costly blocks at higher resolution
    are not run (latent perceptual loss, arXiv:2411.04873).
    """
    return space_of(autoencoder).decoder_features(autoencoder, latents)


def decode_crop(autoencoder: Autoencoder, latents: Tensor, top: int, left: int, size: int, halo: int) -> Tensor:
    """The size x size cells at (top, left) of scaled latents [B, C, h, w] as images [B, 3, H, W].

    `halo` cells around them, as far as there are any, are decoded with them and cut off. A halo as wide as the reach of
    the decoder's convolutions makes the picture that of `decode`, but for what attention and group statistics see.
    """
    y, x = min(top, halo), min(left, halo)  # cells above and left of the crop
    window = latents[..., top - y : top + size + halo, left - x : left + size + halo]
    images = decode(autoencoder, window)
    scale = images.shape[-1] // window.shape[-1]
    return images[..., y * scale : (y + size) * scale, x * scale : (x + size) * scale]


@torch.no_grad()
def encode_all(autoencoder: Autoencoder, images: Tensor) -> Tensor:
    """uint8 images [N, 3, H, W] -> scaled latents [N, C, h, w] on the autoencoder's device, a few at a time."""
    device = next(autoencoder.parameters()).device
    parts = images.split(_images_at_a_time(images[0, 0].numel()))
    return torch.cat([encode(autoencoder, to_float(x.to(device))) for x in parts])


@torch.no_grad()
def decode_all(autoencoder: Autoencoder, latents: Tensor) -> Tensor:
    """Scaled latents [N, C, h, w] -> uint8 images [N, 3, H, W] on the CPU, a few at a time."""
    return torch.cat([to_uint8(images).cpu() for images in decode_parts(autoencoder, latents)])


def decode_parts(autoencoder: Autoencoder, latents: Tensor) -> Iterator[Tensor]:
    """What `decode` makes of scaled latents [N, C, h, w], a few images at a time."""
    for part in latents.split(_images_at_a_time(latents[0, 0].numel() * cell_side(autoencoder) ** 2)):
        yield decode(autoencoder, part)


def cell_side(autoencoder: Autoencoder) -> int:
    """Pixels along the side of a latent cell."""
    return space_of(autoencoder).cell_side(autoencoder.config)


def latent_channels(autoencoder: Autoencoder) -> int:
    """C of the latents."""
    return space_of(autoencoder).channels(autoencoder.config)


def _images_at_a_time(num_pixels: int) -> int:
    """How many images of so many pixels an autoencoder encodes or decodes together: its maps take most memory."""
    return min(MAX_IMAGES_AT_A_TIME, max(1, PIXELS_AT_A_TIME // num_pixels))


@torch.no_grad()
def whiten(autoencoder: "AutoencoderKL", latents: Tensor) -> None:
    """Fold per-channel mean and deviation of the scaled `latents` into the 1x1 convolutions around them, in place.

    Afterwards latents have mean 0 and deviation 1 per channel and `scaling_factor` is 1, so that pipelines which know
    no shift (PixArt's) see centred data. The composition decode(encode(x)) does not change.
    """
    raw = latents / autoencoder.config.scaling_factor
    mean, std = raw.mean((0, 2, 3)), raw.std((0, 2, 3))
    channels = len(mean)
    into, out_of = autoencoder.quant_conv, autoencoder.post_quant_conv
    into.bias[:channels] = (into.bias[:channels] - mean) / std
    into.weight[:channels] /= std[:, None, None, None]
    into.bias[channels:] -= 2 * std.log()  # the posterior's log variance shrinks with its scale
    out_of.bias += (out_of.weight[:, :, 0, 0] * mean).sum(1)
    out_of.weight *= std[None, :, None, None]
    autoencoder.register_to_config(scaling_factor=1.0)
