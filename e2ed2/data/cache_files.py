"""The files of a cache, each with one typed door: what comes out of it fits, or the message names the file."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, FiniteFloat
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from e2ed2.data.buckets import Shape, bucket_shapes
from e2ed2.data.stream import Place
from e2ed2.system.errors import UserError, said
from e2ed2.system.readers.json_file import parse_json, read_typed
from e2ed2.system.readers.text import decode_text, lines_of
from e2ed2.system.readers.typed import Record, checked

AGAIN = "remove it, and run the same `e2ed2 precompute` again"
EMBEDS = {"embeds": 3, "mask": 2, "pooled": 2}  # a prompt's tensors and their dimensions, as `PromptEmbeds` has them
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MASKS = (torch.bool, torch.int32, torch.int64, *FLOATS)
ANY = -1  # for a length that tensors of one kind need not share

Tensors = dict[str, Tensor]
Side = Annotated[int, Field(ge=1, le=2**15)]  # pixels
Count = Annotated[int, Field(ge=0, lt=2**31)]
Weight = Annotated[FiniteFloat, Field(gt=0, lt=1e100)]
Row = tuple[Annotated[int, Field(ge=1, lt=2**31)], bool, Count, Count, Count, Count, Side, Side, str]


class Buckets(Record):
    """As `recipe.data.BucketConfig`."""

    max_ratio: Annotated[FiniteFloat, Field(ge=1)]
    step: Side
    sizes: Annotated[list[Side], Field(max_length=64)] = []


class MadeWith(Record):
    """What a cache depends on beside the data; all other fields are only compared."""

    size: Side = Field(alias="data.size")
    buckets: Buckets | None = Field(alias="data.buckets")

    @property
    def shapes(self) -> list[Shape]:
        if self.buckets is None:
            return [(self.size, self.size)]
        return bucket_shapes(self.size, self.buckets.max_ratio, self.buckets.step, self.buckets.sizes)


class Manifest(Record):
    """`cache.json`. `parts`: (number of items, weight) of several sources. `cut_captions`: what to say of it."""

    made_with: MadeWith
    data: str
    parts: list[Annotated[tuple[Count, Weight], Field(strict=False)]]
    has_images: bool
    complete: bool
    cut_captions: str = ""


class ShardMetadata(Record):
    """Of each item: number of captions, whether it has a plain one, `micro`, first caption; the stream after them."""

    rows: list[Annotated[Row, Field(strict=False)]]
    state: Place | None


def read_manifest(folder: Path) -> Manifest | None:
    """`cache.json`, None where there is none."""
    path = folder / "cache.json"
    return read_typed(path, Manifest, "cache", "remove the folder, and precompute again") if path.is_file() else None


def read_shard_metadata(folder: Path, number: int) -> ShardMetadata | None:
    """What a shard says of its items, None where there is none yet."""
    path = shard_path(folder, number)
    if not path.is_file():
        return None
    with whole(path), safe_open(path, "pt") as file:
        values = parse_json((file.metadata() or {}).get("shard", "null"))
    both = dict(zip(("rows", "state"), values, strict=False)) if isinstance(values, list) else None
    return checked(ShardMetadata, both, str(path), AGAIN)


def read_index(
    folder: Path, shapes: Sequence[Shape], parts: Sequence[tuple[int, float]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each item: (shard, number in it) [N, 2], `ShardMetadata` without caption [N, 8], number of its shape [N]."""
    path = folder / "index.safetensors"
    with whole(path):
        index = load_file(path)
        places, items = _table(index, "places", 2), _table(index, "items", 8)
        if len(places) != len(items) or (parts and sum(count for count, _ in parts) != len(items)):
            raise ValueError(f"{len(places)} places, {len(items)} items, {parts} in parts")
        if items[:, 0].min() < 1 or items[:, 1].max() > 1:
            raise ValueError("items without a caption")
        sides, which = items[:, -2:].unique(dim=0, return_inverse=True)
        numbers = {shape: i for i, shape in enumerate(shapes)}
        for height, width in sides.tolist():
            if (height, width) not in numbers:
                raise ValueError(f"no bucket is {height} x {width}")
    return places, items, torch.tensor([numbers[height, width] for height, width in sides.tolist()])[which]


def _table(index: Tensors, name: str, width: int) -> Tensor:
    table = index.get(name)
    if table is None or table.dtype != torch.int64 or table.ndim != 2 or table.shape[1] != width or not len(table):
        raise ValueError(f"{name} are no whole numbers [N, {width}]")
    if table.min() < 0 or table.max() >= 2**31:
        raise ValueError(f"{name} out of range")
    return table


def read_empty(folder: Path) -> Tensors:
    """The embeddings of the empty prompt, one row."""
    path = folder / "empty.safetensors"
    with whole(path):
        empty = load_file(path)
        if "embeds" not in empty or empty.keys() - EMBEDS.keys():
            raise ValueError(f"holds {', '.join(empty)}")
        for name, tensor in empty.items():
            types, length = (MASKS, empty["embeds"].shape[1:2]) if name == "mask" else (FLOATS, tensor.shape[1:2])
            if tensor.dtype not in types or tensor.ndim != EMBEDS[name] or tensor.shape[:2] != (1, *length):
                raise ValueError(f"{name} is {_described(tensor)}")
    return empty


def read_first_captions(folder: Path, count: int) -> list[str]:
    """The plain caption of every item, or its first."""
    path = folder / "captions.txt"
    with whole(path):
        captions = lines_of(decode_text(path.read_bytes()))
        if len(captions) != count:
            raise ValueError(f"{len(captions)} lines for {count} items")
    return captions


def read_tensor(shard: Any, name: str, dtypes: Sequence[torch.dtype], shape: Sequence[int]) -> Tensor:
    """A tensor of an open shard; ValueError where it is of another kind."""
    tensor: Tensor = shard.get_tensor(name)
    fits = tensor.ndim == len(shape) and all(side in (ANY, own) for own, side in zip(tensor.shape, shape, strict=True))
    if tensor.dtype not in dtypes or not fits:
        raise ValueError(f"{name} is {_described(tensor)}")
    return tensor


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Whatever a file of a cache cannot be read for comes out as one UserError."""
    try:
        yield
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"{path}: damaged ({said(error)}); {AGAIN}") from error


def shard_path(folder: Path, number: int) -> Path:
    return folder / "shards" / f"{number:06d}.safetensors"
