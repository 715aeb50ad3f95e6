"""What tells one class of autoencoder from another: how images become the latents that networks see, and back."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class LatentSpace(ABC):
    """A class of autoencoders. Holds no model: every method is given one, or the config of one."""

    @abstractmethod
    def to_latents(self, autoencoder: Any, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1], in the autoencoder's precision -> latents [B, C, h, w], float32."""

    @abstractmethod
    def from_latents(self, autoencoder: Any, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w] -> images [B, 3, H, W], not clamped."""

    @abstractmethod
    def decoder_features(self, autoencoder: Any, latents: Tensor) -> list[Tensor]:
        """Maps [B, C', h', w'] of the decoder: at its entrance and after its first block."""

    def cell_side(self, config: Mapping[str, Any]) -> int:
        """Pixels along the side of a latent cell."""
        return 2 ** (len(config.get("block_out_channels", [0] * 4)) - 1)

    def channels(self, config: Mapping[str, Any]) -> int:
        """C of the latents."""
        return config["latent_channels"]


class KL(LatentSpace):
    """`AutoencoderKL`: one scale, and a shift where there is one (Stable Diffusion 3's and FLUX.1's have)."""

    def to_latents(self, autoencoder: Any, images: Tensor) -> Tensor:
        latents = autoencoder.encode(images).latent_dist.mode().float()
        return (latents - self._shift(autoencoder)) * autoencoder.config.scaling_factor

    def from_latents(self, autoencoder: Any, latents: Tensor) -> Tensor:
        return autoencoder.decode(self._raw(autoencoder, latents), return_dict=False)[0]

    def decoder_features(self, autoencoder: Any, latents: Tensor) -> list[Tensor]:
        decoder, z = autoencoder.decoder, self._raw(autoencoder, latents)
        if autoencoder.post_quant_conv is not None:
            z = autoencoder.post_quant_conv(z)
        middle = decoder.mid_block(decoder.conv_in(z))
        return [middle, decoder.up_blocks[0](middle)]

    def _raw(self, autoencoder: Any, latents: Tensor) -> Tensor:
        """Latents as the decoder takes them, in its precision."""
        return (latents / autoencoder.config.scaling_factor + self._shift(autoencoder)).to(dtype_of(autoencoder))

    def _shift(self, autoencoder: Any) -> float:
        return getattr(autoencoder.config, "shift_factor", None) or 0.0


class KLFlux2(KL):
    """`AutoencoderKLFlux2`: 2x2 cells are one, with the channels of four, normalised as by a batch norm."""

    def to_latents(self, autoencoder: Any, images: Tensor) -> Tensor:
        latents = F.pixel_unshuffle(autoencoder.encode(images).latent_dist.mode().float(), 2)
        mean, std = self._statistics(autoencoder)
        return (latents - mean) / std

    def cell_side(self, config: Mapping[str, Any]) -> int:
        return 2 * super().cell_side(config)

    def channels(self, config: Mapping[str, Any]) -> int:
        return 4 * super().channels(config)

    def _raw(self, autoencoder: Any, latents: Tensor) -> Tensor:
        mean, std = self._statistics(autoencoder)
        return F.pixel_shuffle(latents * std + mean, 2).to(dtype_of(autoencoder))

    def _statistics(self, autoencoder: Any) -> tuple[Tensor, Tensor]:
        norm = autoencoder.bn
        std = (norm.running_var.float() + autoencoder.config.batch_norm_eps).sqrt()
        return norm.running_mean.float()[:, None, None], std[:, None, None]


class KLQwenImage(LatentSpace):
    """`AutoencoderKLQwenImage`: one frame of a film, each channel with a mean and a deviation of its own.

    By encoder and decoder themselves: `encode` looks at the decoder too, which may be left out, and `decode` clamps,
    which would stop gradients.
    """

    def to_latents(self, autoencoder: Any, images: Tensor) -> Tensor:
        moments = autoencoder.quant_conv(autoencoder.encoder(images[:, :, None]))
        latents = moments[:, : self.channels(autoencoder.config), 0].float()
        mean, std = self._statistics(autoencoder, latents)
        return (latents - mean) / std

    def from_latents(self, autoencoder: Any, latents: Tensor) -> Tensor:
        return autoencoder.decoder(self._raw(autoencoder, latents))[:, :, 0]

    def decoder_features(self, autoencoder: Any, latents: Tensor) -> list[Tensor]:
        decoder = autoencoder.decoder
        middle = decoder.mid_block(decoder.conv_in(self._raw(autoencoder, latents)))
        return [middle[:, :, 0], decoder.up_blocks[0](middle)[:, :, 0]]

    def cell_side(self, config: Mapping[str, Any]) -> int:
        return 2 ** len(config["temperal_downsample"])

    def channels(self, config: Mapping[str, Any]) -> int:
        return config["z_dim"]

    def _raw(self, autoencoder: Any, latents: Tensor) -> Tensor:
        mean, std = self._statistics(autoencoder, latents)
        return autoencoder.post_quant_conv((latents * std + mean)[:, :, None].to(dtype_of(autoencoder)))

    def _statistics(self, autoencoder: Any, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = autoencoder.config.latents_mean, autoencoder.config.latents_std
        return like.new_tensor(mean)[:, None, None], like.new_tensor(std)[:, None, None]


class DC(LatentSpace):
    """`AutoencoderDC`: cells of 32 pixels, no distribution, one scale."""

    def to_latents(self, autoencoder: Any, images: Tensor) -> Tensor:
        return autoencoder.encode(images).latent.float() * autoencoder.config.scaling_factor

    def from_latents(self, autoencoder: Any, latents: Tensor) -> Tensor:
        return autoencoder.decode(self._raw(autoencoder, latents), return_dict=False)[0]

    def decoder_features(self, autoencoder: Any, latents: Tensor) -> list[Tensor]:
        """Its blocks are listed from the last to the first."""
        decoder, z = autoencoder.decoder, self._raw(autoencoder, latents)
        shortcut = z.repeat_interleave(decoder.in_shortcut_repeats, dim=1) if decoder.in_shortcut else 0
        first = decoder.up_blocks[-1](decoder.conv_in(z) + shortcut)
        return [first, decoder.up_blocks[-2](first)]

    def cell_side(self, config: Mapping[str, Any]) -> int:
        return 2 ** (len(config.get("encoder_block_out_channels", [0] * 6)) - 1)

    def _raw(self, autoencoder: Any, latents: Tensor) -> Tensor:
        return (latents / autoencoder.config.scaling_factor).to(dtype_of(autoencoder))


SPACES: dict[str, LatentSpace] = {  # by class
    "AutoencoderKL": KL(),
    "AutoencoderKLFlux2": KLFlux2(),
    "AutoencoderKLQwenImage": KLQwenImage(),
    "AutoencoderDC": DC(),
}


def space_named(class_name: str) -> LatentSpace:
    """That of a class of autoencoders; what is not in the table is taken for an `AutoencoderKL`."""
    return SPACES.get(class_name, SPACES["AutoencoderKL"])


def space_of(autoencoder: Any) -> LatentSpace:
    """That of a loaded autoencoder."""
    return space_named(type(autoencoder).__name__)


def dtype_of(autoencoder: Any) -> torch.dtype:
    """The precision of its weights."""
    return next(autoencoder.parameters()).dtype
