"""How many images a second each source hands over, in micro-batches of 8, against what a training takes.

    OMP_NUM_THREADS=1 python -m benchmarks.data [--json] [--out results/benchmarks]

Photos are noise smoothed to look like JPEGs of 768 x 512 (170 kB), fitted to buckets around 512 x 512, and for the rows
of large ones 4000 x 3000 (a few, read again and again); `whole` decodes those at all of their resolution. `folder` and
`webdataset` decode with as many threads as there are cores; `scan` is the first look at a folder. The cache holds
what PixArt needs at 512 px: latents 4 x 64 x 64 and 40 tokens of T5 in bf16, read after the files were just written, so
from memory. A GPU that trains a 0.6B network end to end over four steps takes a few images a second.
"""

import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.published import publish
from e2ed2.data import image_files
from e2ed2.data.buckets import bucket_shapes
from e2ed2.data.cache import CachedItem, CachedSet, write_index, write_manifest, write_shard
from e2ed2.data.order import Order, ShuffledOrder
from e2ed2.data.source_set import SourceSet
from e2ed2.data.sources.columns import Columns
from e2ed2.data.sources.folder import FolderSource
from e2ed2.data.sources.shards import tar_shards
from e2ed2.data.stream import ShardStream, StreamSet

NUM_IMAGES, NUM_ROUNDS, BATCH = 512, 48, 8
NUM_LARGE, LARGE_ROUNDS = 8, 6
STEP = 1.0  # seconds of an update of 8 captions by a GPU, at the least
BUCKETS = {"max_ratio": 2.0, "step": 64}
SHAPES = bucket_shapes(512, **BUCKETS)
NUM_WORKERS = os.cpu_count() or 1


def measure() -> dict[str, float]:
    """Images a second of each source; and the milliseconds that a step waits."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["E2ED2_CACHE"] = str(folder / "scans")
        write_photos(folder / "photos", (768, 512), NUM_IMAGES)
        write_photos(folder / "large", (4000, 3000), NUM_LARGE)
        write_tars(folder / "photos", folder / "shards")
        write_cache(folder / "cache")
        started = time.perf_counter()
        source = SourceSet([("photos", FolderSource(folder / "photos"))], [1.0], SHAPES, 0.0, NUM_WORKERS)
        found["folder, scan"] = NUM_IMAGES / (time.perf_counter() - started)
        found["folder"] = rate(ShuffledOrder(0, len(source), BATCH, source.buckets), source.pictures)
        ahead = ShuffledOrder(1, len(source), BATCH, source.buckets, read_ahead=source.read_ahead)
        found[f"folder, ms waited while steps of {1000 * STEP:.0f} ms compute"] = 1000 * wait(ahead, source.pictures)
        large = SourceSet([("large", FolderSource(folder / "large"))], [1.0], SHAPES, 0.0, NUM_WORKERS)
        order = ShuffledOrder(0, len(large), BATCH, large.buckets)
        found["folder, 4000 x 3000"] = rate(order, large.pictures, LARGE_ROUNDS)
        with patch.object(image_files, "MIN_REDUCTION", 1000):
            found["folder, 4000 x 3000, whole"] = rate(order, large.pictures, LARGE_ROUNDS)
        open_stream = partial(ShardStream, tar_shards(str(folder / "shards"), Columns()))
        stream = StreamSet(open_stream, SHAPES, 128, 0.0, NUM_WORKERS, print)
        stream.begin(0, BATCH, 0, 1, None)
        found["webdataset"] = rate(stream, stream.pictures)
        cached = CachedSet(folder / "cache")
        found["cache"] = rate(ShuffledOrder(0, len(cached), BATCH), partial(read, cached))
    return found


def rate(order: Order, load: Callable[[torch.Tensor], object], num_rounds: int = NUM_ROUNDS) -> float:
    started = time.perf_counter()
    for position in range(num_rounds):
        load(order.rows(position))
    return num_rounds * BATCH / (time.perf_counter() - started)


def wait(order: Order, load: Callable[[torch.Tensor], object]) -> float:
    """Seconds that a step waits for its micro-batch, after the first, when the one before leaves the CPU alone."""
    waited = []
    for position in range(NUM_ROUNDS):
        started = time.perf_counter()
        load(order.rows(position))
        waited.append(time.perf_counter() - started)
        time.sleep(STEP)
    return statistics.fmean(waited[1:])


def read(cached: CachedSet, rows: torch.Tensor) -> list[torch.Tensor]:
    return [(cached.x0(row) + cached.embeds(row, 0)["embeds"].sum()) for row in rows.tolist()]


def write_photos(folder: Path, sides: tuple[int, int], num_images: int) -> None:
    folder.mkdir()
    coarse = torch.randint(256, (sides[1] // 8, sides[0] // 8, 3), generator=torch.Generator().manual_seed(0)).byte()
    for i in range(num_images):
        size = sides if i % 2 else sides[::-1]
        photo = Image.fromarray(coarse.roll(i, 0).numpy()).resize(size, Image.Resampling.BICUBIC)
        photo.save(folder / f"{i:05d}.jpg", quality=95)
        (folder / f"{i:05d}.txt").write_text(f"photo {i}")


def write_tars(photos: Path, folder: Path) -> None:
    folder.mkdir()
    files = sorted(photos.iterdir())
    for shard in range(4):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for file in files[shard * len(files) // 4 : (shard + 1) * len(files) // 4]:
                tar.add(file, file.name)


def write_cache(folder: Path) -> None:
    items = [
        CachedItem(
            torch.randn(4, 64, 64),
            (512, 512, 0, 0, 512, 512),
            {0: {"embeds": torch.randn(1, 40, 4096).bfloat16(), "mask": torch.ones(1, 40)}},
            "a photo",
            None,
        )
        for _ in range(256)
    ]
    for shard in range(2):
        write_shard(folder, shard, items, None)
    write_index(folder)
    save_file({"embeds": torch.zeros(1, 1, 4096).bfloat16(), "mask": torch.ones(1, 1)}, folder / "empty.safetensors")
    made_with = {"data.size": 512, "data.buckets": BUCKETS}
    told = {"made_with": made_with, "data": "random", "parts": [], "has_images": False, "complete": True}
    write_manifest(folder, told)


if __name__ == "__main__":
    publish("data", measure)
