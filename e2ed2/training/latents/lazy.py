"""Latent sets that do not hold everything: encoded batch by batch, or read from a cache."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from e2ed2.data.batch import ImageTextSet, Picture, spread
from e2ed2.data.cache import EMPTY, PLAIN, CachedSet, Tensors
from e2ed2.data.source_set import SourceSet
from e2ed2.data.stream import StreamSet
from e2ed2.models.autoencoder import encode_all, to_float
from e2ed2.models.families import family_of
from e2ed2.models.prompt_embeds import PromptEmbeds
from e2ed2.models.text import (
    MAX_SEQUENCE_LENGTH,
    encode_prompts,
    encode_uncond,
    longest_tokenizer,
    text_encoders,
    too_long,
)
from e2ed2.recipe.config import Config
from e2ed2.recipe.data import DataConfig
from e2ed2.system.readers.typed import MAX_SHOWN
from e2ed2.training.latents.encoders import check_made_with, made_with
from e2ed2.training.latents.latent_set import (
    NUM_PREVIEWS,
    LatentBatch,
    LatentSet,
    MemoryLatents,
    check_size,
)

NUM_COUNTED = 2000  # captions of a large set whose length is looked at


def latent_set(
    data: ImageTextSet | SourceSet | StreamSet | CachedSet,
    config: Config,
    pipeline: Any,
    device: torch.device,
    say: Callable[[str], None],
    max_sequence_length: int = MAX_SEQUENCE_LENGTH,
) -> LatentSet:
    """The training set `data` as latents of the pipeline's autoencoder and embeddings of its text encoders.

    Raises:
        UserError: of another size than the model's, or a cache that something else made.
    """
    check_size(data.size, config.data, pipeline)
    if cut := cut_captions(data, pipeline, max_sequence_length):
        say(f"note: {cut}")
    if isinstance(data, ImageTextSet):
        return MemoryLatents(data, config.data, pipeline, device, say, max_sequence_length)
    if isinstance(data, CachedSet):
        check_made_with(data.made_with, made_with(config, pipeline, max_sequence_length), config.data.path)
        return CachedLatents(data, config.data, pipeline, device)
    weights = [x for encoder in text_encoders(pipeline).values() for x in encoder.parameters()]
    gigabytes = sum(x.numel() * x.element_size() for x in weights) / 1e9
    say(
        f"images and captions are encoded batch by batch: the text encoders ({gigabytes:.1f} GB) stay on the device; "
        "`e2ed2 precompute RECIPE --out DIR` and data.source=cache spare them"
    )
    return OnlineLatents(data, config.data, pipeline, device, max_sequence_length)


def cut_captions(
    data: ImageTextSet | SourceSet | StreamSet | CachedSet, pipeline: Any, max_sequence_length: int
) -> str:
    """A line on how many of some captions are longer than what the text encoder sees of them; empty if none is."""
    if isinstance(data, CachedSet):
        return data.cut_captions
    captions = some_captions(data, NUM_COUNTED)
    cut = too_long(captions, longest_tokenizer(pipeline), max_sequence_length)
    if not cut:
        return ""
    return (
        f"{len(cut)} of {len(captions)} captions are longer than the {max_sequence_length} tokens that the text "
        f"encoder sees, and end there for it, such as '{cut[0][:60]}...'"
    )


def short_caption(data: ImageTextSet | SourceSet | StreamSet | CachedSet) -> str:
    """One of a set's first captions to show what it is about: the first that is short, or the beginning of one."""
    captions = some_captions(data, NUM_PREVIEWS)[:NUM_PREVIEWS]
    return next((caption for caption in captions if len(caption) <= MAX_SHOWN), captions[0][:MAX_SHOWN].strip())


def some_captions(data: ImageTextSet | SourceSet | StreamSet | CachedSet, count: int) -> list[str]:
    """Captions of a set, its first one first: `count` or more of them, where there are so many and none is costly."""
    if isinstance(data, StreamSet):
        return [caption for picture in data.preview(NUM_PREVIEWS) for caption in picture.captions]
    if isinstance(data, SourceSet):
        return data.first_captions(spread(len(data), count))
    return data.captions if isinstance(data, ImageTextSet) else data.first_captions()


class OnlineLatents(LatentSet):
    """A set that is decoded and encoded batch by batch, in the precision that a set in memory would be encoded in."""

    def __init__(
        self,
        data: SourceSet | StreamSet,
        config: DataConfig,
        pipeline: Any,
        device: torch.device,
        max_sequence_length: int,
    ):
        first_captions = data.first_captions() if config.asks_groups and isinstance(data, SourceSet) else None
        super().__init__(config, device, first_captions, has_plain=False)
        self._data, self._knows_crop = data, family_of(pipeline).knows_crop
        self._pipeline = copy.copy(pipeline)  # the stage may part with text encoders and lower the precision
        self._pipeline.register_modules(vae=copy.deepcopy(pipeline.vae))
        self._pipeline.vae.decoder = None
        self._max_sequence_length = max_sequence_length
        self.uncond = encode_uncond(pipeline, max_sequence_length).to(device)
        self._last: tuple[Tensor, list[Picture]] | None = None  # rows, and what is at them

    def _load(self, rows: Tensor, draws: Tensor) -> tuple[Tensor, PromptEmbeds]:
        self._last = rows, self._data.pictures(rows)
        return self._encode(self._last[1], self.captions(rows, draws))

    def captions(self, rows: Tensor, draws: Tensor) -> list[str]:
        pairs = _with_counts(self._pictures(rows), draws)
        return [_caption(picture, self._choice(*pair)) for picture, pair in pairs]

    @torch.no_grad()
    def _encode(self, pictures: Sequence[Picture], captions: list[str]) -> tuple[Tensor, PromptEmbeds]:
        images = torch.stack([picture.image for picture in pictures])
        with torch.autocast(self._device.type, enabled=False):
            x0 = encode_all(self._pipeline.vae, images)
            cond = encode_prompts(captions, self._pipeline, self._max_sequence_length)
        if self._knows_crop:
            cond = replace(cond, micro=torch.tensor([picture.micro for picture in pictures]).float())
        return x0, cond

    def images(self, rows: Tensor) -> Tensor:
        """The pictures themselves, float [B, 3, H, W] in [-1, 1]."""
        return to_float(torch.stack([picture.image for picture in self._pictures(rows)]).to(self._device))

    def _pictures(self, rows: Tensor) -> list[Picture]:
        """What is at `rows`, in memory where they are the last batch's."""
        if self._last is None or not torch.equal(rows, self._last[0]):
            self._last = rows, self._data.pictures(rows)
        return self._last[1]

    def preview_batch(self) -> LatentBatch:
        """The same items and their first captions every time."""
        pictures = self._data.preview(NUM_PREVIEWS)
        x0, cond = self._encode(pictures, [picture.captions[0] for picture in pictures])
        return self._of_own_captions(torch.arange(len(pictures)), x0, cond)

    def preview_items(self) -> tuple[list[str], Tensor | None]:
        pictures = self._data.preview(NUM_PREVIEWS)
        return [picture.captions[0] for picture in pictures], torch.stack([picture.image for picture in pictures])


class CachedLatents(LatentSet):
    """A set read from a cache; no encoder runs."""

    def __init__(self, data: CachedSet, config: DataConfig, pipeline: Any, device: torch.device):
        first_captions = data.first_captions() if config.asks_groups else None
        super().__init__(config, device, first_captions, has_plain=data.has_plain)
        self._data, self._knows_crop = data, family_of(pipeline).knows_crop
        self._preview_captions: list[str] | None = None  # reading them reads those of the whole cache
        self.uncond = family_of(pipeline).uncond(pipeline, PromptEmbeds(**data.empty)).to(device)

    def _load(self, rows: Tensor, draws: Tensor) -> tuple[Tensor, PromptEmbeds]:
        return self._read(rows, self._choices(rows, draws))

    def _choices(self, rows: Tensor, draws: Tensor) -> list[int]:
        counts = self._data.num_captions[rows].tolist()
        return [self._choice(draw, count) for draw, count in zip(draws, counts, strict=True)]

    def captions(self, rows: Tensor, draws: Tensor) -> list[str]:
        """Of a cache of items with one caption each: it keeps no more."""
        assert self._data.tells_captions
        choices = zip(rows.tolist(), self._choices(rows, draws), strict=True)
        return ["" if choice == EMPTY else self._texts[row] for row, choice in choices]

    @cached_property
    def _texts(self) -> list[str]:
        """The first caption of every item of the cache."""
        return self._data.first_captions()

    def _read(self, rows: Tensor, choices: Sequence[int]) -> tuple[Tensor, PromptEmbeds]:
        x0 = torch.stack([self._data.x0(row) for row in rows.tolist()])
        cond = collate([self._data.embeds(row, i) for row, i in zip(rows.tolist(), choices, strict=True)])
        return x0, replace(cond, micro=self._data.micro[rows].float()) if self._knows_crop else cond

    def images(self, rows: Tensor) -> Tensor:
        """The pictures themselves, float [B, 3, H, W] in [-1, 1]."""
        return to_float(torch.stack([self._data.image(row) for row in rows.tolist()]).to(self._device))

    def preview_batch(self) -> LatentBatch:
        """The same items and their first captions every time."""
        rows = self._preview_rows()
        return self._of_own_captions(rows, *self._read(rows, [0] * len(rows)))

    def preview_items(self) -> tuple[list[str], Tensor | None]:
        """Of captions the cache keeps one an item: the plain one where there is one."""
        rows = self._preview_rows().tolist()
        if self._preview_captions is None:
            texts = self._data.first_captions()
            self._preview_captions = [texts[row] for row in rows]
        images = torch.stack([self._data.image(row) for row in rows]) if self._data.has_images else None
        return self._preview_captions, images

    def _preview_rows(self) -> Tensor:
        rows = torch.arange(len(self._data))
        if self._data.buckets is not None:
            rows = torch.nonzero(self._data.buckets == self._data.buckets.mode().values).flatten()
        return rows[spread(len(rows), NUM_PREVIEWS)]


def collate(items: Sequence[Tensors]) -> PromptEmbeds:
    """Prompt embeddings of one row each, as a batch; shorter ones are padded where a mask says so."""
    length = max(item["embeds"].shape[1] for item in items)
    padded = []
    for item in items:
        missing = length - item["embeds"].shape[1]
        item = dict(item)
        if missing:
            item |= {"embeds": F.pad(item["embeds"], (0, 0, 0, missing)), "mask": F.pad(item["mask"], (0, missing))}
        padded.append(item)
    return PromptEmbeds(**{name: torch.cat([item[name] for item in padded]) for name in padded[0]})


def _caption(picture: Picture, choice: int) -> str:
    if choice == EMPTY:
        return ""
    return picture.captions[0 if choice == PLAIN else choice]


def _with_counts(pictures: Sequence[Picture], draws: Tensor) -> list[tuple[Picture, tuple[Tensor, int]]]:
    return [(picture, (draw, len(picture.captions))) for picture, draw in zip(pictures, draws, strict=True)]
