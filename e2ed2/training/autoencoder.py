"""Stage `autoencoder`: images -> small latents and back (Eq. 4-6), L1 and a light KL term."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from e2ed2.data.batch import ImageTextSet
from e2ed2.models.autoencoder import decode_all, encode_all, to_float, whiten
from e2ed2.models.new import new_network
from e2ed2.training.config import Config, objective_weights

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class AutoencoderStage:
    """Trains an `AutoencoderKL`; `architecture` are its keyword arguments."""

    adversary = None

    def __init__(self, config: Config, data: ImageTextSet, device: torch.device, say: Callable[[str], None]):
        from diffusers import AutoencoderKL

        self.network: nn.Module = new_network(AutoencoderKL, config.model.architecture).to(device)
        self.weights = objective_weights(config)
        self._data = data
        self._device = device

    def loss_terms(
        self, network: "AutoencoderKL", ema: nn.Module, rows: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """`l1`: mean absolute error on [-1, 1]; `kl`: mean nats per latent number."""
        images = to_float(self._data.images[rows].to(self._device))
        posterior = network.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator, device=generator.device).to(images)
        reconstruction = network.decode(posterior.mean + posterior.std * noise, return_dict=False)[0]
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        return {"l1": (reconstruction.float() - images).abs().mean(), "kl": kl}

    @torch.no_grad()
    def preview(self, network: "AutoencoderKL") -> Tensor:
        """Real images beside their reconstructions, uint8 [16, 3, H, W]."""
        step = max(len(self._data) // 8, 1)
        images = self._data.images[::step][:8]
        latents = encode_all(network, images)
        reconstructions = decode_all(network, latents)
        return torch.stack([images, reconstructions], 1).flatten(0, 1)

    def export(self, network: "AutoencoderKL", folder: Path) -> None:
        """A diffusers autoencoder folder whose latents are white over the training images."""
        network = network.eval()
        whiten(network, encode_all(network, self._data.images))
        network.save_pretrained(folder)
