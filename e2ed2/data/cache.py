"""A cache of latents and prompt embeddings: a folder of safetensors shards, mapped into memory when read.

`cache.json` says what made it and whether it is whole, `index.safetensors` and `captions.txt` hold a line for each
item, `empty.safetensors` the empty prompt, `shards/N.safetensors` the items, in order. A shard appears at once or not
at all, so that a kill leaves nothing torn or doubled.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from e2ed2.data.buckets import bucket_shapes
from e2ed2.system.errors import UserError
from e2ed2.system.files import atomic_file, write_file

SHARD_SIZE = 256  # items
OPEN_SHARDS = 256
PLAIN, EMPTY = -1, -2  # numbers of the plain and of the empty caption beside those of an item's own
MADE_BY = "run `e2ed2 precompute RECIPE.yaml --out DIR` and give DIR"

Tensors = dict[str, Tensor]


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
    with atomic_file(_shard_path(folder, number)) as temporary:
        save_file(tensors, temporary, metadata={"shard": json.dumps([rows, state])})


def read_shard_metadata(folder: Path, number: int) -> tuple[list[list[Any]], dict[str, Any] | None] | None:
    """(Rows, state of the stream after them) of a shard, None where there is none yet."""
    try:
        with safe_open(_shard_path(folder, number), "pt") as file:
            metadata = file.metadata()
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{_shard_path(folder, number)}: damaged ({error}); remove it, and precompute again") from error
    rows, state = json.loads(metadata["shard"])
    return rows, state


def num_shards(folder: Path) -> int:
    """How many are there."""
    return len(list((folder / "shards").glob("[0-9]*.safetensors")))


def write_index(folder: Path) -> None:
    """What a reader needs of all items together."""
    rows: list[list[Any]] = []
    places: list[tuple[int, int]] = []
    number = 0
    while (found := read_shard_metadata(folder, number)) is not None:
        rows += found[0]
        places += [(number, i) for i in range(len(found[0]))]
        number += 1
    if not rows:
        raise UserError("data: no item is usable, so that there is nothing to keep")
    index = {"places": torch.tensor(places), "items": torch.tensor([[int(x) for x in row[:-1]] for row in rows])}
    with atomic_file(folder / "index.safetensors") as temporary:
        save_file(index, temporary)
    write_file(folder / "captions.txt", "".join(f"{row[-1]}\n" for row in rows).encode())


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """`cache.json`, None where there is none."""
    try:
        return json.loads((folder / "cache.json").read_text())
    except (OSError, ValueError):
        return None


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    write_file(folder / "cache.json", (json.dumps(manifest, indent=1) + "\n").encode())


class CachedSet:
    """The training set of a cache.

    Attributes:
        made_with: what made it, by field.
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
        if not manifest["complete"]:
            raise UserError(f"data.path: the cache {folder} is unfinished; run the same `e2ed2 precompute` again")
        self.made_with: dict[str, Any] = manifest["made_with"]
        self.parts = [tuple(part) for part in manifest["parts"]]
        self.has_images: bool = manifest["has_images"]
        self.size: int = self.made_with["data.size"]
        try:
            index = load_file(folder / "index.safetensors")
            self.empty = load_file(folder / "empty.safetensors")
        except (OSError, SafetensorError) as error:
            raise UserError(f"data.path: the cache {folder} is damaged ({error}); precompute again") from error
        self._places, items = index["places"], index["items"]
        self.num_captions, self.micro = items[:, 0], items[:, 2:]
        self.has_plain = bool(items[:, 1].any())
        self.buckets: Tensor | None = None
        if self.made_with["data.buckets"]:
            numbers = {shape: i for i, shape in enumerate(bucket_shapes(self.size, **self.made_with["data.buckets"]))}
            self.buckets = torch.tensor([numbers[tuple(shape)] for shape in items[:, -2:].tolist()])
        self._shard = lru_cache(maxsize=OPEN_SHARDS)(self._open_shard)

    def __len__(self) -> int:
        return len(self._places)

    def first_captions(self) -> list[str]:
        return (self.folder / "captions.txt").read_text().splitlines()

    def x0(self, row: int) -> Tensor:
        """Scaled latents [C, h, w]."""
        return self._tensor(row, "x0.{}")

    def image(self, row: int) -> Tensor:
        """uint8 [3, H, W]."""
        return self._tensor(row, "image.{}")

    def embeds(self, row: int, caption: int) -> Tensors:
        """The tensors of one caption's embeddings, of one row each."""
        if caption == EMPTY:
            return self.empty
        if caption == PLAIN and not self.has_plain:
            caption = 0
        return {name: self._tensor(row, f"{name}.{{}}.{caption}") for name in self.empty}

    def _tensor(self, row: int, name: str) -> Tensor:
        shard, i = self._places[row].tolist()
        try:
            return self._shard(shard).get_tensor(name.format(i))
        except (OSError, SafetensorError) as error:
            path = _shard_path(self.folder, shard)
            raise UserError(f"{path}: cannot be read ({error}); remove it and run the same precompute again") from error

    def _open_shard(self, number: int) -> Any:
        return safe_open(_shard_path(self.folder, number), "pt")


def _shard_path(folder: Path, number: int) -> Path:
    return folder / "shards" / f"{number:06d}.safetensors"
