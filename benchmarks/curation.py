"""How fast a folder of shards is curated beside plain decoding, how memory grows, and which copies are found.

    OMP_NUM_THREADS=1 python -m benchmarks.curation rate              # 256 px JPEGs in shards; at least 0.7 is asked
    OMP_NUM_THREADS=1 python -m benchmarks.curation memory [ROWS ...] # peak at 10^6 rows by that at 10^5; at most 1.3
    OMP_NUM_THREADS=1 python -m benchmarks.curation copies [DEB]      # recall and precision on changed copies

`rate` also reads the same shards and decodes them with Pillow, a thread for each core, before and after.
`memory` curates shards of 32 px JPEGs from beginning to end, each number of rows in a process of its own. `DEB` is the
Debian package of `benchmarks.photographs`.
"""

import io
import json
import os
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image, ImageOps

from e2ed2.curation.hashes import HASHED_SIDE, MIRROR, band_keys, distances, perceptual_hashes
from e2ed2.curation.pipeline import load_pipeline
from e2ed2.curation.run import curate
from e2ed2.data.sources.shards import write_tar
from e2ed2.system.watch import Watch, silent

NOTO = Path(__file__).parents[1] / "e2ed2" / "emoji" / "noto" / "images.tar"
ITEMS_A_SHARD = 2000
RATE_ITEMS, MEMORY_ITEMS, KEPT = 60_000, (100_000, 1_000_000), 10_000
RATE_TILES, MEMORY_TILES = (4, 64), (2, 16)  # drawings along a side of an image, and their pixels
EVERY = 0.2  # seconds between two looks at memory


def drawings() -> list[Image.Image]:
    """Noto's emoji, 64 px, on white."""
    with tarfile.open(NOTO) as tar:
        files = [tar.extractfile(member) for member in tar if member.name.endswith(".webp")]
        return [Image.open(io.BytesIO(file.read())).convert("RGB") for file in files if file]


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def changed(tiles: tuple[int, int], count: int) -> Iterator[bytes]:
    """JPEGs, no two alike: square sheets of drawings, drawn anew for each."""
    along, side = tiles
    every = [np.asarray(image.resize((side, side), Image.Resampling.LANCZOS)) for image in drawings()]
    sources = np.stack(every)
    for number in range(count):
        drawn = np.random.default_rng(number).integers(0, len(sources), (along, along))
        yield jpeg(Image.fromarray(sources[drawn].swapaxes(1, 2).reshape(along * side, along * side, 3)))


def write_shards(folder: Path, tiles: tuple[int, int], count: int) -> None:
    images, scores = changed(tiles, count), np.random.default_rng(0).normal(5, 1, count).round(4).tolist()
    for first in range(0, count, ITEMS_A_SHARD):
        members: list[tuple[str, bytes]] = []
        for number in range(first, min(first + ITEMS_A_SHARD, count)):
            key, told = f"{number:08d}", {"aesthetic": scores[number], "caption": f"drawing {number}"}
            members += [(f"{key}.jpg", next(images)), (f"{key}.json", json.dumps(told).encode())]
        write_tar(folder / f"{first // ITEMS_A_SHARD:05d}.tar", members)


def run(folder: Path, out: Path, *overrides: str, watch: Watch = silent) -> None:
    fields = ["input.source=webdataset", f"input.path={folder}", f"output.path={out}", "check.min_side=16", *overrides]
    curate(load_pipeline(Path("curation/folder"), fields), watch)


def decode_all(folder: Path) -> None:
    """Read shards and decode their images, a thread for each core."""

    def decode(shard: Path) -> None:
        with tarfile.open(shard, "r|") as tar:
            for member in tar:
                if member.name.endswith(".jpg") and (file := tar.extractfile(member)):
                    with Image.open(io.BytesIO(file.read())) as image:
                        image.load()

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(decode, sorted(folder.glob("*.tar"))))


def spent(work: Callable[[], None]) -> NDArray[np.float64]:
    """Seconds, and seconds of a core, those of ended child processes too."""

    def now() -> NDArray[np.float64]:
        times = os.times()
        return np.array([times.elapsed, times.user + times.system + times.children_user + times.children_system])

    start = now()
    work()
    return now() - start


def rate() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder / "shards", RATE_TILES, RATE_ITEMS)
        write_shards(folder / "few", RATE_TILES, 200)
        run(folder / "few", folder / "first")  # what is loaded once
        asked = ("deduplicate=null", f"select.count={RATE_ITEMS // 2}")
        before = spent(lambda: decode_all(folder / "shards"))
        curated = spent(lambda: run(folder / "shards", folder / "out", *asked))
        after = spent(lambda: decode_all(folder / "shards"))
    for what, seconds in (("decoding before", before), ("curating", curated), ("decoding after", after)):
        print(f"{what}: {RATE_ITEMS / seconds[0]:.0f} images/s, {1000 * seconds[1] / RATE_ITEMS:.2f} ms of a core each")
    times, of_cores = (before + after) / 2 / curated
    print(f"{times:.2f} times the rate of decoding; of processor time {of_cores:.2f}")


def memory() -> None:
    counts, peaks = [*map(int, sys.argv[2:])] or MEMORY_ITEMS, []
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            write_shards(Path(name) / "shards", MEMORY_TILES, count)
            start = time.perf_counter()
            steps = peak([sys.executable, "-m", "benchmarks.curation", "whole", name], Path(name) / "step")
            peaks.append(max(steps.values()))
            print(f"{count:,} rows: {peaks[-1] / 2**20:.0f} MiB, {time.perf_counter() - start:.0f} s", flush=True)
            print("  " + ", ".join(f"{step} {most / 2**20:.0f}" for step, most in steps.items()), flush=True)
    print(f"{peaks[-1] / peaks[0]:.2f} times")


def whole() -> None:
    folder = Path(sys.argv[2])

    def watch(step: str, done: int, total: int) -> None:
        (folder / "step").write_text(step)

    run(folder / "shards", folder / "out", f"select.count={KEPT}", watch=watch)


def peak(command: Sequence[str], step: Path) -> dict[str, int]:
    """By the step, which the command writes to a file, the bytes that it and its children are resident with at most."""
    process, most, name = psutil.Popen(command), Counter[str](), "start"
    while process.poll() is None:
        held = 0
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.Error):
                held += each.memory_info().rss
        name = (step.read_text() if step.exists() else "") or name
        most[name] = max(most[name], held)
        time.sleep(EVERY)
    if process.returncode:
        raise SystemExit(f"it ended with {process.returncode}")
    return dict(most)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS),
    "1.5 times the size": lambda image: image.resize(
        (image.width * 3 // 2, image.height * 3 // 2), Image.Resampling.BICUBIC
    ),
    "JPEG 75": lambda image: Image.open(io.BytesIO(jpeg(image, 75))),
    "JPEG 30": lambda image: Image.open(io.BytesIO(jpeg(image, 30))),
    "mirrored": ImageOps.mirror,
    "mirrored, JPEG 50": lambda image: Image.open(io.BytesIO(jpeg(ImageOps.mirror(image), 50))),
    "2% cut off each side": lambda image: cropped(image, 0.02),
    "5% cut off each side": lambda image: cropped(image, 0.05),
    "10% cut off each side": lambda image: cropped(image, 0.1),
}


def cropped(image: Image.Image, share: float) -> Image.Image:
    width, height = image.size
    return image.crop(
        (round(width * share), round(height * share), round(width * (1 - share)), round(height * (1 - share)))
    )


def hashed(image: Image.Image) -> bytes:
    small = image.convert("RGB").resize((HASHED_SIDE, HASHED_SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    return perceptual_hashes(np.asarray(small)[None])[0]


def copies() -> None:
    sets = {"drawings": drawings()}
    if len(sys.argv) > 2:
        sets["photographs"] = photographs(Path(sys.argv[2]))
    for name, images in sets.items():
        print(f"{name}, {len(images)}")
        for most in (4, 8, 12, 16):
            report(images, most)


def photographs(package: Path) -> list[Image.Image]:
    """Cut-outs of a Debian package, on white, at their own size."""
    from benchmarks.photographs import files_of, is_photograph

    found = []
    for path, content in files_of(package):
        if path.suffix == ".png":
            image = Image.open(io.BytesIO(content)).convert("RGBA")
            if is_photograph(path, image):
                found.append(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))
    return found


def report(images: list[Image.Image], most: int) -> None:
    """Recall of each change, and the share of pairs found that are the same image's: all pairs are looked at."""
    hashes = np.frombuffer(b"".join(map(hashed, images)), np.uint8).reshape(len(images), -1)
    keys = band_keys(hashes, MIRROR)
    recalls, right, wrong = [], 0, 0
    for change in CHANGES.values():
        hits = 0
        for number, image in enumerate(images):
            bits = np.frombuffer(hashed(change(image)), np.uint8)
            meet = (keys == band_keys(bits[None], MIRROR)).any(1)
            near = meet & (distances(bits, hashes, MIRROR) <= most)
            hits += bool(near[number])
            wrong += int(near.sum()) - bool(near[number])
        right += hits
        recalls.append(hits / len(images))
    told = ", ".join(f"{name} {recall:.3f}" for name, recall in zip(CHANGES, recalls, strict=True))
    print(f"  {most} bits: precision {right / max(right + wrong, 1):.3f}; recall: {told}", flush=True)


if __name__ == "__main__":
    {"rate": rate, "memory": memory, "copies": copies, "whole": whole}[sys.argv[1]]()
