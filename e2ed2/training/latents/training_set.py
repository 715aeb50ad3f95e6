"""The training set that a recipe's `data` section names, and the order it is trained in."""

import os
from collections.abc import Callable, Sized
from functools import partial
from pathlib import Path
from typing import Any

from e2ed2.data.batch import ImageTextSet
from e2ed2.data.cache import CachedSet
from e2ed2.data.decoding import Progress
from e2ed2.data.items import Source
from e2ed2.data.order import Order, ShuffledOrder, mix
from e2ed2.data.source_set import SourceSet
from e2ed2.data.sources.columns import Columns
from e2ed2.data.sources.folder import FolderSource
from e2ed2.data.sources.shards import tar_shards
from e2ed2.data.sources.tables import Shard, TableSource, table_shards
from e2ed2.data.stream import MixedStream, ShardStream, Stream, StreamSet
from e2ed2.emoji.dataset import IMAGE_SIZE, load_emoji
from e2ed2.recipe.config import Config
from e2ed2.recipe.data import DataConfig, SourceConfig, WeightedSourceConfig
from e2ed2.system.errors import UserError

TrainingSet = ImageTextSet | SourceSet | StreamSet | CachedSet

MAX_BYTES_IN_MEMORY = 2**30  # of pixels; a larger set is decoded and encoded batch by batch
MAX_WORKERS = 16
NUM_SKIPPED = 20  # items that are named


def load_training_set(
    config: DataConfig, say: Callable[[str], None], progress: Progress | None = None
) -> TrainingSet:
    """The images and captions of `data.source`.

    Args:
        progress: called with (done, total) while emoji are drawn or images scanned; both are done once and kept.
    Raises:
        UserError: nothing usable, too large a share of bad items, or a size the source does not have.
    """
    if config.source != "emoji" or config.sources:
        return load_user_data(config, say, progress)
    open_sources(config)
    return load_emoji("train", progress)


def open_sources(config: DataConfig) -> list[Any]:
    """What `data.source` or `data.sources` name, with nothing decoded: shards, a list of images, or a cache.

    Raises:
        UserError: nothing there, no access, or a column or a size that it does not have.
    """
    if config.source == "emoji" and not config.sources:
        if config.size != IMAGE_SIZE:
            raise UserError(
                f"data.size: {config.size}, but the emoji set has {IMAGE_SIZE} px images: set it to {IMAGE_SIZE}"
            )
        return []
    if config.source == "cache" and not config.sources:
        return [CachedSet(_on_disk(config))]
    sources = _sources(config)
    if sources[0].is_stream:
        return [_open_shards(source) for source in sources]
    return [(str(source.path), _open_source(source)) for source in sources]


def _sources(config: DataConfig) -> list[WeightedSourceConfig]:
    return config.sources or [WeightedSourceConfig(**config.model_dump(include=set(SourceConfig.model_fields)))]


def load_user_data(config: DataConfig, say: Callable[[str], None], progress: Progress | None = None) -> TrainingSet:
    """A user's images and captions: in memory where they are few, squares, and have one caption each.

    Raises:
        UserError: nothing there, nothing usable, too large a share of bad items, or no access.
    """
    opened = open_sources(config)
    if config.source == "cache" and not config.sources:
        return opened[0]
    sources, shapes = _sources(config), config.shapes
    num_workers = config.num_workers or min(os.cpu_count() or 1, MAX_WORKERS)
    weights = [source.weight for source in sources]
    if sources[0].is_stream:
        open_stream = partial(_open_stream, opened, weights)
        return StreamSet(open_stream, shapes, config.window_size, config.max_bad_fraction, num_workers, say)
    data = SourceSet(opened, weights, shapes, config.max_bad_fraction, num_workers, say, progress)
    is_small = len(data) * 3 * config.size**2 <= MAX_BYTES_IN_MEMORY
    return (data.in_memory() if is_small else None) or data


def about_data(data: Any) -> dict[str, Any]:
    """What was read: `images`, `captions` (different ones of their own), `skipped` and the first of those.

    With `data.default_caption` also how many are `captioned_by_default`; of a user's images the least, the median and
    the largest of `sizes` (height, width, by area) and how many are `enlarged`. Nothing of a stream. Different captions
    that are not in memory are not counted.
    """
    if not isinstance(data, ImageTextSet | SourceSet | CachedSet):
        return {}
    about: dict[str, Any] = {"images": len(data)}
    if isinstance(data, CachedSet):
        return about
    by_default = data.by_default
    if isinstance(data, ImageTextSet):
        rows = zip(data.captions, by_default or [False] * len(data), strict=True)
        about["captions"] = len({caption for caption, is_by_default in rows if not is_by_default})
    if by_default is not None:
        about["captioned_by_default"] = sum(by_default)
    if sides := sorted(data.sides, key=lambda side: (side[0] * side[1], side)):
        about["sizes"] = [list(side) for side in (sides[0], sides[len(sides) // 2], sides[-1])]
        about["enlarged"] = sum(min(side) < data.size for side in sides)
    return about | {"skipped": len(data.skipped), "first_skipped": [str(item) for item in data.skipped[:NUM_SKIPPED]]}


def create_order(
    data: Any, config: Config, rank: int, num_processes: int, state: dict[str, Any] | None = None
) -> Order:
    """The order in which `data` is trained, going on where `state` of a checkpoint was taken."""
    seed, batch_size = config.train.seed, config.train.micro_batch_size
    if isinstance(data, StreamSet):
        data.begin(seed, batch_size, rank, num_processes, state)
        return data
    if isinstance(data, SourceSet) and not config.data.asks_groups:  # class batches exchange rows
        return ShuffledOrder(seed, len(data), batch_size, data.buckets, data.parts, data.read_ahead, num_processes)
    if isinstance(data, SourceSet | CachedSet):
        return ShuffledOrder(seed, len(data), batch_size, data.buckets, data.parts)
    assert isinstance(data, Sized)
    return ShuffledOrder(seed, len(data), batch_size)


def _columns(config: SourceConfig) -> Columns:
    return Columns(config.image_column, config.caption_column, config.caption_per_line, config.default_caption)


def _on_disk(config: SourceConfig) -> Path:
    path = str(config.path)
    if "://" in path:
        remedy = "copy it there (of S3: `aws s3 sync`)"
        if config.source == "folder":
            remedy += ", or pack it as .tar shards and give data.source=webdataset"
        raise UserError(f"data.path '{path}': data.source={config.source} reads from disk: {remedy}")
    return Path(path)


def _open_source(config: SourceConfig) -> Source:
    if config.source == "folder":
        return FolderSource(_on_disk(config), _columns(config))
    return TableSource(str(config.path), config.source, _columns(config), config.revision, config.split)


def _open_shards(config: SourceConfig) -> list[Shard]:
    if config.source == "webdataset":
        return tar_shards(str(config.path), _columns(config))
    return table_shards(str(config.path), config.source, _columns(config), config.revision, config.split)


def _open_stream(
    shards: list[list[Shard]], weights: list[float], seed: int | None, rank: int, num_processes: int
) -> Stream:
    if len(shards) == 1:
        return ShardStream(shards[0], seed, rank, num_processes)
    streams = [
        ShardStream(part, None if seed is None else mix(seed, number), rank, num_processes)
        for number, part in enumerate(shards)
    ]
    return MixedStream(streams, weights, mix(seed or 0, rank))
