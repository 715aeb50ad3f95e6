"""What the three latent stages share: encoded images, embedded prompts, captions drawn per row, fixed previews."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from e2ed2.data.batch import ImageTextSet
from e2ed2.errors import UserError
from e2ed2.models.autoencoder import encode_all, to_float
from e2ed2.models.families import family_of, network_of
from e2ed2.models.prompt_embeds import PromptEmbeds
from e2ed2.models.text import MAX_SEQUENCE_LENGTH, cached_prompt_embeds
from e2ed2.training.config import DataConfig

NUM_PREVIEWS = 16


@dataclass(frozen=True)
class LatentBatch:
    """x0: scaled latents [B, C, h, w] of the items `rows` [B]; cond: the prompt embeddings of their captions."""

    rows: Tensor
    x0: Tensor
    cond: PromptEmbeds


class LatentSet:
    """Training images as latents and captions as embeddings, in memory."""

    def __init__(
        self,
        data: ImageTextSet,
        config: DataConfig,
        pipeline: Any,
        device: torch.device,
        say: Callable[[str], None],
        max_sequence_length: int = MAX_SEQUENCE_LENGTH,
    ):
        check_size(data, pipeline)
        self._images_per_caption = n = config.images_per_caption
        self._plain_fraction = 1.0 if n > 1 else config.plain_caption_fraction
        self._dropout = config.caption_dropout
        self._device = device
        self._images = data.images
        prompts = ["", *dict.fromkeys([*data.captions, *data.plain_captions])]
        place = {prompt: i for i, prompt in enumerate(prompts)}
        self._captions = torch.tensor([place[c] for c in data.captions])
        self._plain = torch.tensor([place[c] for c in data.plain_captions])
        num_images = torch.bincount(self._plain)[self._plain]  # of each row's plain caption
        self._anchors = torch.nonzero(num_images >= n).flatten()
        if len(self._anchors) == 0:
            row = int(num_images.argmax())
            most = f"'{data.plain_captions[row]}' has the most, {num_images[row]}: give {num_images[row]} at most"
            raise UserError(f"data.images_per_caption: {n}, but no caption has so many images; {most}")
        say(f"encoding {len(data)} images and their captions")
        self.latents = encode_all(pipeline.vae, data.images).cpu()
        self._embeds = cached_prompt_embeds(prompts, pipeline, max_sequence_length)
        empty = self._embeds.select(torch.tensor([0]))
        self.uncond = family_of(pipeline).uncond(pipeline, empty).to(device)

    def batch(self, rows: Tensor, generator: torch.Generator) -> LatentBatch:
        """Latents of `rows` with a caption each: with its style, without, or empty, by the config's shares.

        In class batches they are the `grouped` rows, and a group shares its caption: plain, or empty.
        """
        rows, n = self.grouped(rows, generator), self._images_per_caption
        draw = torch.rand(len(rows) // n, 2, generator=generator).repeat_interleave(n, 0)
        prompts = torch.where(draw[:, 0] < self._plain_fraction, self._plain[rows], self._captions[rows])
        prompts = torch.where(draw[:, 1] < self._dropout, torch.zeros_like(prompts), prompts)
        return LatentBatch(rows, self.latents[rows].to(self._device), self._embeds.select(prompts).to(self._device))

    def grouped(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The class batch of `rows` [B]: every n-th names a plain caption, n random images of it follow each other.

        A row whose caption has fewer than n images gives way to a random one whose caption has them. With n = 1 the
        rows themselves; n divides B.
        """
        n = self._images_per_caption
        if n == 1:
            return rows
        anchors = rows[::n]
        others = self._anchors[torch.randint(len(self._anchors), anchors.shape, generator=generator)]
        anchors = torch.where(torch.isin(anchors, self._anchors), anchors, others)
        groups = [torch.nonzero(self._plain == caption).flatten() for caption in self._plain[anchors]]
        return torch.cat([images[torch.randperm(len(images), generator=generator)[:n]] for images in groups])

    def retarget(self, latents: Tensor) -> None:
        """From here on x0 is `latents` [N, C, h, w], made for the full captions, and no other caption is drawn."""
        self.latents, self._plain_fraction, self._dropout = latents, 0.0, 0.0

    def images(self, rows: Tensor) -> Tensor:
        """The pictures themselves, float [B, 3, H, W] in [-1, 1]."""
        return to_float(self._images[rows].to(self._device))

    def preview_batch(self) -> LatentBatch:
        """The same captions every time, spread over the set."""
        count = min(NUM_PREVIEWS, len(self.latents))
        rows = torch.arange(count) * (len(self.latents) // count)
        cond = self._embeds.select(self._captions[rows])
        return LatentBatch(rows, self.latents[rows].to(self._device), cond.to(self._device))


def check_size(data: ImageTextSet, pipeline: Any) -> None:
    """Raise UserError when the images do not have the side that the model works at."""
    side = network_of(pipeline).config.sample_size * pipeline.vae_scale_factor
    if data.images.shape[-1] != side:
        raise UserError(f"data.size: {data.images.shape[-1]}, but the model makes {side} px images: set it to {side}")
