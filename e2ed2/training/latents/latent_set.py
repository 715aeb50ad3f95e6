"""What the three latent stages share: encoded images, embedded prompts, captions drawn per row, fixed previews."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from e2ed2.data.batch import ImageTextSet, spread
from e2ed2.data.cache import EMPTY, PLAIN
from e2ed2.models.autoencoder import encode_all, to_float
from e2ed2.models.families import family_of
from e2ed2.models.prompt_embeds import PromptEmbeds
from e2ed2.models.text import cached_prompt_embeds
from e2ed2.recipe.data import DataConfig
from e2ed2.system.drawing.sheets import Sheet
from e2ed2.system.errors import UserError

NUM_PREVIEWS = 16
REAL, COPY, SAMPLE = "real", "autoencoder's copy", "sample"  # columns of a preview


@dataclass(frozen=True)
class LatentBatch:
    """x0: scaled latents [B, C, h, w] of the items `rows` [B]; cond: the prompt embeddings of their captions.

    Attributes:
        is_full: bool [B], on the CPU: whether the caption is one of the item's own, neither empty, nor one with less
            detail, nor a group's.
        draws: uniform [B, 2], on the CPU, which chose the captions.
        num_grouped: rows at the end that are groups of images of one plain caption (class batches).
    """

    rows: Tensor
    x0: Tensor
    cond: PromptEmbeds
    is_full: Tensor
    draws: Tensor
    num_grouped: int = 0


class LatentSet(ABC):
    """Training images as latents and captions as embeddings; what is kept of them, and where, is up to the class.

    Args:
        first_captions: of every item the plain caption, or the first; None where there can be no class batches.
        has_plain: whether items have a plain caption beside their own.
    Attributes:
        uncond: what guidance leads away from.
        images_per_caption: in class batches, the config's; 1 where there are none.
        why_no_groups: and why.
    """

    uncond: PromptEmbeds

    def __init__(self, config: DataConfig, device: torch.device, first_captions: Sequence[str] | None, has_plain: bool):
        self.images_per_caption, self.why_no_groups = 1, "items of a stream, or of several shapes, are not grouped"
        self._plain_fraction = config.plain_caption_fraction if has_plain else 0.0
        self._dropout = config.caption_dropout
        self._device = device
        if config.images_per_caption > 1 and first_captions is not None:
            self._find_groups(config, first_captions)

    def _find_groups(self, config: DataConfig, first_captions: Sequence[str]) -> None:
        """Captions with enough images for class batches.

        Where their items are fewer than the share of rows that they would fill, they would come again far more often
        than all others: then rows with captions of their own are all there is.

        Raises:
            UserError: and there are none of those either.
        """
        n = config.images_per_caption
        place = {caption: i for i, caption in enumerate(dict.fromkeys(first_captions))}
        self._groups = torch.tensor([place[caption] for caption in first_captions])
        num_images = torch.bincount(self._groups)[self._groups]  # of each row's plain caption
        self._anchors = torch.nonzero(num_images >= n).flatten()
        count, plain = len(self._anchors), config.plain_caption_fraction
        self.why_no_groups = f"{count} items have a caption of {n} images, which are to fill {plain:.0%} of all rows"
        if count >= max(1, plain * len(first_captions)) or (plain == 1 and count):
            self.images_per_caption, self._plain_fraction = n, plain
        elif plain == 1:
            row = int(num_images.argmax())
            most = f"'{first_captions[row]}' has the most, {num_images[row]}: give {num_images[row]} at most"
            raise UserError(f"data.images_per_caption: {n}, but no caption has so many images; {most}")

    @abstractmethod
    def _load(self, rows: Tensor, draws: Tensor) -> tuple[Tensor, PromptEmbeds]:
        """Latents of `rows` [B], and the captions that `_choice` of `draws` [B, 2] makes of them."""

    @abstractmethod
    def captions(self, rows: Tensor, draws: Tensor) -> list[str]:
        """The captions that `_choice` of `draws` [B, 2] makes of `rows` [B], those of `_load`."""

    @abstractmethod
    def images(self, rows: Tensor) -> Tensor:
        """The pictures themselves, float [B, 3, H, W] in [-1, 1]."""

    @abstractmethod
    def preview_batch(self) -> LatentBatch:
        """The same items and captions every time, spread over the set, all of one shape."""

    @abstractmethod
    def preview_items(self) -> tuple[list[str], Tensor | None]:
        """Captions of `preview_batch` [B], and its pictures uint8 [B, 3, H, W], None where latents alone were kept."""

    def preview_sheet(self, batch: LatentBatch, samples: Tensor, show: Callable[[Tensor], Tensor]) -> Sheet:
        """Samples under their captions, beside the real images or, where there are none, the autoencoder's copies.

        Args:
            batch: what `preview_batch` gave. samples: of it, uint8 [B, 3, H, W].
            show: latents -> such pictures.
        """
        captions, images = self.preview_items()
        beside = {COPY: show(batch.x0)} if images is None else {REAL: images}
        return Sheet(captions, {**beside, SAMPLE: samples})

    def batch(self, rows: Tensor, generator: torch.Generator) -> LatentBatch:
        """Latents of `rows` with a caption each: one of its own, the plain one, or empty, by the config's shares.

        In class batches the plain captions' share of the rows, at the end, are `grouped` ones, and a group shares its
        condition: its caption, plain or empty, and its first image's size and crop.
        """
        n, plain = self.images_per_caption, self._plain_fraction
        num_grouped = round(len(rows) * plain / n) * n if n > 1 else 0
        own, groups = rows.split([len(rows) - num_grouped, num_grouped])
        rows = torch.cat([own, self.grouped(groups, generator)]) if num_grouped else rows
        draws = torch.rand(len(own), 2, generator=generator)
        if num_grouped:
            draws[:, 0] = plain + (1 - plain) * draws[:, 0]  # never the plain one
            of_groups = torch.rand(num_grouped // n, 2, generator=generator).repeat_interleave(n, 0)
            draws = torch.cat([draws, of_groups * torch.tensor([plain, 1.0])])  # always the plain one
        x0, cond = self._load(rows, draws)
        if num_grouped and cond.micro is not None:
            shared = cond.micro[len(own) :: n].repeat_interleave(n, 0)
            cond = replace(cond, micro=torch.cat([cond.micro[: len(own)], shared]))
        is_full = (draws[:, 0] >= plain) & (draws[:, 1] >= self._dropout)
        return LatentBatch(rows, x0.to(self._device), cond.to(self._device), is_full, draws, num_grouped)

    def _of_own_captions(self, rows: Tensor, x0: Tensor, cond: PromptEmbeds) -> LatentBatch:
        is_full = torch.ones(len(rows), dtype=torch.bool)
        first = torch.tensor([self._plain_fraction, 1.0]).expand(len(rows), 2)  # of its own captions
        return LatentBatch(rows, x0.to(self._device), cond.to(self._device), is_full, first)

    def grouped(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """The groups that `rows` [B] stand for: every n-th names a plain caption, and n random images of it follow.

        A row whose caption has fewer than n images gives way to a random one whose caption has them. n divides B.
        """
        n = self.images_per_caption
        anchors = rows[::n]
        others = self._anchors[torch.randint(len(self._anchors), anchors.shape, generator=generator)]
        anchors = torch.where(torch.isin(anchors, self._anchors), anchors, others)
        groups = [torch.nonzero(self._groups == caption).flatten() for caption in self._groups[anchors]]
        return torch.cat([images[torch.randperm(len(images), generator=generator)[:n]] for images in groups])

    def _choice(self, draws: Tensor, num_captions: int) -> int:
        """Which caption two uniform numbers stand for: `EMPTY`, `PLAIN`, or the number of one of its own."""
        plain, (first, second) = self._plain_fraction, draws.tolist()
        if second < self._dropout:
            return EMPTY
        if first < plain:
            return PLAIN
        return min(int((first - plain) / (1 - plain) * num_captions), num_captions - 1)


class MemoryLatents(LatentSet):
    """A set in memory, encoded before training begins."""

    def __init__(
        self,
        data: ImageTextSet,
        config: DataConfig,
        pipeline: Any,
        device: torch.device,
        say: Callable[[str], None],
        max_sequence_length: int,
    ):
        super().__init__(config, device, data.plain_captions, data.has_plain)
        self._images, self._texts = data.images, data.captions
        prompts = ["", *dict.fromkeys([*data.captions, *data.plain_captions])]
        place = {prompt: i for i, prompt in enumerate(prompts)}
        self._prompts = prompts
        self._captions = torch.tensor([place[c] for c in data.captions])
        self._plain = torch.tensor([place[c] for c in data.plain_captions])
        self._micro = data.micro if family_of(pipeline).knows_crop else None
        say(f"encoding {len(data)} images and their captions")
        self.latents = encode_all(pipeline.vae, data.images).cpu()
        self._embeds = cached_prompt_embeds(prompts, pipeline, max_sequence_length)
        empty = self._embeds.select(torch.tensor([0]))
        self.uncond = family_of(pipeline).uncond(pipeline, empty).to(device)

    def _load(self, rows: Tensor, draws: Tensor) -> tuple[Tensor, PromptEmbeds]:
        return self.latents[rows], self._cond(rows, self._chosen(rows, draws))

    def captions(self, rows: Tensor, draws: Tensor) -> list[str]:
        return [self._prompts[i] for i in self._chosen(rows, draws).tolist()]

    def _chosen(self, rows: Tensor, draws: Tensor) -> Tensor:
        """Numbers of prompts [B]."""
        prompts = torch.where(draws[:, 0] < self._plain_fraction, self._plain[rows], self._captions[rows])
        return torch.where(draws[:, 1] < self._dropout, torch.zeros_like(prompts), prompts)

    def _cond(self, rows: Tensor, prompts: Tensor) -> PromptEmbeds:
        cond = self._embeds.select(prompts)
        return cond if self._micro is None else replace(cond, micro=self._micro[rows].float())

    def retarget(self, latents: Tensor) -> None:
        """From here on x0 is `latents` [N, C, h, w], made for the full captions, and no other caption is drawn."""
        self.latents, self._plain_fraction, self._dropout = latents, 0.0, 0.0

    def images(self, rows: Tensor) -> Tensor:
        """The pictures themselves, float [B, 3, H, W] in [-1, 1]."""
        return to_float(self._images[rows].to(self._device))

    def preview_batch(self) -> LatentBatch:
        """The same captions every time, spread over the set."""
        rows = spread(len(self.latents), NUM_PREVIEWS)
        return self._of_own_captions(rows, self.latents[rows], self._cond(rows, self._captions[rows]))

    def preview_items(self) -> tuple[list[str], Tensor | None]:
        rows = spread(len(self.latents), NUM_PREVIEWS)
        return [self._texts[row] for row in rows.tolist()], self._images[rows]


def check_size(size: int, config: DataConfig, pipeline: Any) -> None:
    """Raise UserError when the images have shapes that the model cannot take, or far from those it makes."""
    sizes = family_of(pipeline).sizes(pipeline)
    side, cell, least, most = sizes.side, sizes.trained_step, sizes.trained_least, sizes.trained_most
    for field, value in (("data.size", size), *(("data.buckets.sizes", value) for value in config.buckets.sizes)):
        if value % cell or not least <= value <= most:
            others = f"or to a multiple of {cell} from {least} to {most}"
            raise UserError(f"{field}: {value}, but the model makes {side} px images: set it to {side}, {others}")
    if config.buckets.has_several and config.buckets.step % cell:
        step = cell * max(1, round(config.buckets.step / cell))
        raise UserError(
            f"data.buckets.step: {config.buckets.step}, but this model's sides are multiples of {cell} px: try {step}"
        )
