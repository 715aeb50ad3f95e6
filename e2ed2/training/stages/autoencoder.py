"""Stage `autoencoder`: images -> small latents and back (Eq. 4-6), L1 and a light KL term."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from e2ed2.data.batch import ImageTextSet, spread
from e2ed2.models.autoencoder import cell_side, decode_all, encode_all, to_float, whiten
from e2ed2.models.new import new_network
from e2ed2.recipe.config import Config, objective_weights
from e2ed2.system.drawing.sheets import Sheet
from e2ed2.system.errors import UserError
from e2ed2.training.latents.latent_set import COPY, REAL

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

NUM_PREVIEWS = 8


class Reconstruction(nn.Module):
    """An autoencoder's two halves as one call, without which several processes would not share its gradient."""

    def __init__(self, autoencoder: "AutoencoderKL"):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] decoded from a draw of the posterior, and mean nats per latent number."""
        posterior = self.autoencoder.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator, device=generator.device).to(images)
        decoded = self.autoencoder.decode(posterior.mean + posterior.std * noise, return_dict=False)[0]
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        return decoded, kl


class AutoencoderStage:
    """Trains an `AutoencoderKL`; `architecture` are its keyword arguments."""

    adversary = began_at = None

    def __init__(self, config: Config, data: ImageTextSet, device: torch.device, say: Callable[[str], None]):
        from diffusers import AutoencoderKL

        autoencoder = new_network(AutoencoderKL, config.model.architecture)
        if data.size % (cell := cell_side(autoencoder)):
            raise UserError(f"data.size: {data.size}, but a latent cell is {cell} px here: give a multiple of {cell}")
        self.network: nn.Module = Reconstruction(autoencoder).to(device)
        self.weights = objective_weights(config)
        self._data = data
        self._device = device

    def loss_terms(
        self, network: nn.Module, ema: nn.Module, rows: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """`l1`: mean absolute error on [-1, 1]; `kl`: mean nats per latent number."""
        images = to_float(self._data.images[rows].to(self._device))
        reconstruction, kl = network(images, generator)
        return {"l1": (reconstruction.float() - images).abs().mean(), "kl": kl}

    @torch.no_grad()
    def preview(self, network: nn.Module) -> Sheet:
        """Eight real images beside their copies."""
        assert isinstance(network, Reconstruction)
        rows = spread(len(self._data), NUM_PREVIEWS)
        images = self._data.images[rows]
        copies = decode_all(network.autoencoder, encode_all(network.autoencoder, images))
        return Sheet([self._data.captions[row] for row in rows.tolist()], {REAL: images, COPY: copies})

    def export(self, network: nn.Module, folder: Path) -> None:
        """A diffusers autoencoder folder whose latents are white over the training images."""
        assert isinstance(network, Reconstruction)
        autoencoder = network.autoencoder.eval()
        whiten(autoencoder, encode_all(autoencoder, self._data.images))
        autoencoder.save_pretrained(folder)
