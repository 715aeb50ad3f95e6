"""A cache of latents and prompt embeddings: a folder of safetensors shards, mapped into memory when read.

`cache.json` says what made it and whether it is whole, `index.safetensors` and `captions.txt` hold a line for each
item, `empty.safetensors` the empty prompt, `shards/N.safetensors` the items, in order. A shard appears at once or not
at all, so that a kill leaves nothing torn or doubled.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from e2ed2.data.cache_files import (
    ANY,
    FLOATS,
    Row,
    Tensors,
    read_empty,
    read_first_captions,
    read_index,
    read_manifest,
    read_shard_metadata,
    read_tensor,
    shard_path,
    whole,
)
from e2ed2.system.errors import UserError, one_line
from e2ed2.system.files import atomic_file, write_file

SHARD_SIZE = 256  # items
OPEN_SHARDS = 256
PLAIN, EMPTY = -1, -2  # numbers of the plain and of the empty caption beside those of an item's own
MADE_BY = "run `e2ed2 precompute RECIPE.yaml --out DIR` and give DIR"


@dataclass(frozen=True)
class CachedItem:
    """What is kept of a picture.

    Attributes:
        x0: scaled latents [C, h, w].
        micro: [6], see `data.batch.Picture`.
        embeds: the tensors of each caption's prompt embeddings, of one row; `PLAIN` those of the plain caption.
        first_caption: the plain one, or the first.
        image: uint8 [3, H, W], where an objective looks at pictures.
    """

    x0: Tensor
    micro: tuple[int, ...]
    embeds: Mapping[int, Tensors]
    first_caption: str
    image: Tensor | None


def write_shard(folder: Path, number: int, items: Iterable[CachedItem], state: dict[str, Any] | None) -> None:
    """All of a shard's items at once; `state`: of the stream after them."""
    tensors: Tensors = {}
    rows = []
    for i, item in enumerate(items):
        tensors[f"x0.{i}"] = item.x0.contiguous()
        if item.image is not None:
            tensors[f"image.{i}"] = item.image.contiguous()
        for caption, embeds in item.embeds.items():
            tensors |= {f"{name}.{i}.{caption}": value.clone() for name, value in embeds.items()}  # some are the same
        num_captions = sum(caption >= 0 for caption in item.embeds)
        rows.append([num_captions, PLAIN in item.embeds, *item.micro, item.first_caption])
    with atomic_file(shard_path(folder, number)) as temporary:
        save_file(tensors, temporary, metadata={"shard": json.dumps([rows, state])})


def num_shards(folder: Path) -> int:
    """How many are there."""
    return len(list((folder / "shards").glob("[0-9]*.safetensors")))


def write_index(folder: Path) -> None:
    """What a reader needs of all items together."""
    rows: list[Row] = []
    places: list[tuple[int, int]] = []
    number = 0
    while (found := read_shard_metadata(folder, number)) is not None:
        rows += found.rows
        places += [(number, i) for i in range(len(found.rows))]
        number += 1
    if not rows:
        raise UserError("data: no item is usable, so that there is nothing to keep")
    index = {"places": torch.tensor(places), "items": torch.tensor([[int(x) for x in row[:-1]] for row in rows])}
    with atomic_file(folder / "index.safetensors") as temporary:
        save_file(index, temporary)
    write_file(folder / "captions.txt", "".join(f"{row[-1]}\n" for row in rows).encode())


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    write_file(folder / "cache.json", (json.dumps(manifest, indent=1) + "\n").encode())


class CachedSet:
    """The training set of a cache.

    Attributes:
        made_with: what made it, by field.
        tells_captions: whether the first caption that is kept of each item is all it has.
        parts: (number of items, weight) of its sources, as `ShuffledOrder` takes them.
        buckets: number [N] of each item's shape, None when there is one shape.
        empty: the tensors of the empty prompt's embeddings, one row.
    Raises:
        UserError: no cache there, or an unfinished or damaged one.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        manifest = read_manifest(folder)
        if manifest is None:
            raise UserError(f"data.path: {folder} is no cache; {MADE_BY}")
        if not manifest.complete:
            raise UserError(f"data.path: the cache {folder} is unfinished; run the same `e2ed2 precompute` again")
        self.made_with: dict[str, Any] = manifest.made_with.model_dump(by_alias=True)
        self.parts, self.has_images, self.size = manifest.parts, manifest.has_images, manifest.made_with.size
        self.cut_captions = one_line(manifest.cut_captions)
        self._places, items, buckets = read_index(folder, manifest.made_with.shapes, manifest.parts)
        self.buckets: Tensor | None = None if manifest.made_with.buckets is None else buckets
        self.num_captions, self.micro = items[:, 0], items[:, 2:]
        self.has_plain = bool(items[:, 1].any())
        self.tells_captions = not self.has_plain and bool((self.num_captions == 1).all())
        self.empty = read_empty(folder)
        self._set_x0()
        self._shard = lru_cache(maxsize=OPEN_SHARDS)(self._open_shard)

    def __len__(self) -> int:
        return len(self._places)

    def first_captions(self) -> list[str]:
        return read_first_captions(self.folder, len(self))

    def x0(self, row: int) -> Tensor:
        """Scaled latents [C, h, w]."""
        height, width = self._sides(row)
        shape = (self._channels, height // self._factor, width // self._factor)
        return self._tensor(row, "x0.{}", self._x0_type, shape)

    def image(self, row: int) -> Tensor:
        """uint8 [3, H, W]."""
        return self._tensor(row, "image.{}", torch.uint8, (3, *self._sides(row)))

    def embeds(self, row: int, caption: int) -> Tensors:
        """The tensors of one caption's embeddings, of one row each."""
        if caption == EMPTY:
            return self.empty
        if caption == PLAIN and not self.has_plain:
            caption = 0
        found: Tensors = {}
        for name, empty in sorted(self.empty.items()):  # embeds, mask, pooled
            length = ANY if name == "embeds" and "mask" in self.empty else empty.shape[1]
            length = found["embeds"].shape[1] if name == "mask" else length
            shape = (1, length, *empty.shape[2:])
            found[name] = self._tensor(row, f"{name}.{{}}.{caption}", empty.dtype, shape)
        return found

    def _sides(self, row: int) -> list[int]:
        """Of the picture: height and width in pixels."""
        return self.micro[row, -2:].tolist()

    def _set_x0(self) -> None:
        """The first latents tell what all are like."""
        shard, i = self._places[0].tolist()
        path = shard_path(self.folder, shard)
        with whole(path), safe_open(path, "pt") as file:
            x0 = read_tensor(file, f"x0.{i}", FLOATS, (ANY, ANY, ANY))
            if 0 in x0.shape:
                raise ValueError(f"x0.{i} is empty")
        self._x0_type, self._channels, self._factor = x0.dtype, len(x0), max(1, self._sides(0)[0] // x0.shape[1])

    def _tensor(self, row: int, name: str, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
        shard, i = self._places[row].tolist()
        with whole(shard_path(self.folder, shard)):
            return read_tensor(self._shard(shard), name.format(i), (dtype,), shape)

    def _open_shard(self, number: int) -> Any:
        return safe_open(shard_path(self.folder, number), "pt")
