"""What the three latent stages share: encoded images, embedded prompts, captions drawn per row, fixed previews."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from e2ed2.data.batch import ImageTextSet
from e2ed2.errors import UserError
from e2ed2.models.autoencoder import encode_all, to_float
from e2ed2.models.text import PromptEmbeds, cached_prompt_embeds
from e2ed2.training.config import DataConfig

if TYPE_CHECKING:
    from diffusers import PixArtAlphaPipeline

NUM_PREVIEWS = 16


@dataclass(frozen=True)
class LatentBatch:
    """x0: scaled latents [B, C, h, w]; cond: the prompt embeddings of the captions drawn for them."""

    x0: Tensor
    cond: PromptEmbeds


class LatentSet:
    """Training images as latents and captions as embeddings, in memory."""

    def __init__(
        self,
        data: ImageTextSet,
        config: DataConfig,
        pipeline: "PixArtAlphaPipeline",
        device: torch.device,
        say: Callable[[str], None],
    ):
        check_size(data, pipeline)
        say(f"encoding {len(data)} images and their captions")
        self._config = config
        self._device = device
        self._images = data.images
        self.latents = encode_all(pipeline.vae, data.images).cpu()
        prompts = ["", *dict.fromkeys([*data.captions, *data.plain_captions])]
        place = {prompt: i for i, prompt in enumerate(prompts)}
        self._captions = torch.tensor([place[c] for c in data.captions])
        self._plain = torch.tensor([place[c] for c in data.plain_captions])
        self._embeds = cached_prompt_embeds(prompts, pipeline.tokenizer, pipeline.text_encoder)
        self.uncond = self._embeds.select(torch.tensor([0])).to(device)

    def batch(self, rows: Tensor, generator: torch.Generator) -> LatentBatch:
        """Latents of `rows` with a caption each: with its style, without, or empty, by the config's shares."""
        draw = torch.rand(len(rows), 2, generator=generator)
        prompts = torch.where(draw[:, 0] < self._config.plain_caption_fraction, self._plain[rows], self._captions[rows])
        prompts = torch.where(draw[:, 1] < self._config.caption_dropout, torch.zeros_like(prompts), prompts)
        return LatentBatch(self.latents[rows].to(self._device), self._embeds.select(prompts).to(self._device))

    def images(self, rows: Tensor) -> Tensor:
        """The pictures themselves, float [B, 3, H, W] in [-1, 1]."""
        return to_float(self._images[rows].to(self._device))

    def preview_batch(self) -> LatentBatch:
        """The same captions every time, spread over the set."""
        count = min(NUM_PREVIEWS, len(self.latents))
        rows = torch.arange(count) * (len(self.latents) // count)
        cond = self._embeds.select(self._captions[rows])
        return LatentBatch(self.latents[rows].to(self._device), cond.to(self._device))


def check_size(data: ImageTextSet, pipeline: "PixArtAlphaPipeline") -> None:
    """Raise UserError when the images do not have the side that the model works at."""
    side = pipeline.transformer.config.sample_size * pipeline.vae_scale_factor
    if data.images.shape[-1] != side:
        raise UserError(f"data.size: {data.images.shape[-1]}, but the model makes {side} px images: set it to {side}")
