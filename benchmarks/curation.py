"""How fast a folder of shards is curated beside plain decoding, how memory grows, and which copies are found.

    OMP_NUM_THREADS=1 python -m benchmarks.curation rate            # 256 px JPEGs in shards; at least 0.7 is asked
    OMP_NUM_THREADS=1 python -m benchmarks.curation memory          # peak at 10^6 rows by that at 10^5; at most 1.3
    OMP_NUM_THREADS=1 python -m benchmarks.curation copies [DEB]    # recall and precision on changed copies

`rate` also reads the same shards and decodes them with Pillow, a thread for each core, before and after.
`memory` begins where all images have been checked, which is done part by part whatever their number; each size is a
process of its own. `DEB` is the Debian package of
`benchmarks.photographs`.
"""

import io
import json
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from PIL import Image, ImageOps

from e2ed2.curation.hashes import HASHED_SIDE, MIRROR, band_keys, distances, perceptual_hash, rank
from e2ed2.curation.items import Item, part_name, write_part
from e2ed2.curation.pipeline import HASH_BITS, Pipeline, load_pipeline
from e2ed2.curation.run import curate
from e2ed2.curation.sources import shards
from e2ed2.curation.work import Work, write_count
from e2ed2.data.sources.shards import write_tar
from e2ed2.system.watch import silent

NOTO = Path(__file__).parents[1] / "e2ed2" / "emoji" / "noto" / "images.tar"
ITEMS_A_SHARD = 2000
RATE_ITEMS, MEMORY_ITEMS, KEPT = 12_000, (100_000, 1_000_000), 10_000
EVERY = 0.05  # seconds between two looks at memory


def drawings() -> list[Image.Image]:
    """Noto's emoji, 64 px, on white."""
    with tarfile.open(NOTO) as tar:
        files = [tar.extractfile(member) for member in tar if member.name.endswith(".webp")]
        return [Image.open(io.BytesIO(file.read())).convert("RGB") for file in files if file]


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def changed(side: int, count: int) -> Iterator[bytes]:
    """JPEGs of `side` pixels, no two alike: sheets of 4 x 4 drawings, drawn anew for each."""
    sources = [image.resize((side // 4, side // 4), Image.Resampling.LANCZOS) for image in drawings()]
    for number in range(count):
        drawn = np.random.default_rng(number).integers(0, len(sources), 16).tolist()
        image = Image.new("RGB", (side, side))
        for place, source in enumerate(drawn):
            image.paste(sources[source], (place % 4 * side // 4, place // 4 * side // 4))
        yield jpeg(image)


def write_shards(folder: Path, side: int, count: int) -> None:
    images = changed(side, count)
    for first in range(0, count, ITEMS_A_SHARD):
        members: list[tuple[str, bytes]] = []
        for number in range(first, min(first + ITEMS_A_SHARD, count)):
            key = f"{number:08d}"
            score = json.dumps({"aesthetic": round(float(np.random.default_rng(number).normal(5, 1)), 4)}).encode()
            members += [
                (f"{key}.jpg", next(images)),
                (f"{key}.json", score),
                (f"{key}.txt", f"drawing {number}".encode()),
            ]
        write_tar(folder / f"{first // ITEMS_A_SHARD:05d}.tar", members)


def run(folder: Path, out: Path, *overrides: str) -> None:
    fields = ["input.source=webdataset", f"input.path={folder}", f"output.path={out}", "check.min_side=16", *overrides]
    curate(load_pipeline(Path("curation/folder"), fields), silent)


def decode_rate(folder: Path) -> float:
    """Images a second of reading shards and decoding their images, a thread for each core."""

    def decode(shard: Path) -> int:
        count = 0
        with tarfile.open(shard, "r|") as tar:
            for member in tar:
                if member.name.endswith(".jpg") and (file := tar.extractfile(member)):
                    with Image.open(io.BytesIO(file.read())) as image:
                        image.load()
                    count += 1
        return count

    start = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        count = sum(pool.map(decode, sorted(folder.glob("*.tar"))))
    return count / (time.perf_counter() - start)


def rate() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder / "shards", 256, RATE_ITEMS)
        write_shards(folder / "few", 256, 200)
        run(folder / "few", folder / "first")  # what is loaded once
        before = decode_rate(folder / "shards")
        start = time.perf_counter()
        run(folder / "shards", folder / "out", "deduplicate=null", f"select.count={RATE_ITEMS // 2}")
        curated = RATE_ITEMS / (time.perf_counter() - start)
        after = decode_rate(folder / "shards")
    plain = (before + after) / 2
    print(f"decoding alone {before:.0f} and {after:.0f} images/s; check, hash, select by score and write {curated:.0f}")
    print(f"{curated / plain:.2f} times")


def memory() -> None:
    """Rows as they are when every image has been checked: of real images, the hashes of each row its own."""
    peaks = []
    for count in MEMORY_ITEMS:
        with tempfile.TemporaryDirectory() as name:
            asked = load_pipeline(Path("curation/folder"), checked_fields(Path(name) / "out"))
            write_checked(asked, count)
            start = time.perf_counter()
            peaks.append(peak([sys.executable, "-m", "benchmarks.curation", "rest", name]))
            print(f"{count} rows: {peaks[-1] / 2**20:.0f} MiB, {time.perf_counter() - start:.0f} s", flush=True)
    print(f"{peaks[1] / peaks[0]:.2f} times")


def checked_fields(out: Path) -> list[str]:
    return ["input.source=webdataset", f"input.path={NOTO}", f"output.path={out}", f"select.count={KEPT}"]


def write_checked(pipeline: Pipeline, count: int) -> None:
    """The parts that the steps `read` and `check` leave, of made-up rows."""
    work, step = Work(pipeline.output.path), pipeline.engine.part_rows
    work.claim(pipeline)
    images = [row for row in shards.rows(str(NOTO), pipeline.input) if row.file is not None]
    random = np.random.default_rng(0)
    for part, first in enumerate(range(0, count, step)):
        items = []
        for number in range(first, min(first + step, count)):
            row, bits = images[number % len(images)], random.bytes(HASH_BITS // 8 + 16)
            items.append(
                Item(
                    number, f"{number:09d}", row.source, row.file, row.offset, row.size, row.caption, row.caption,
                    domain=f"site{int(random.geometric(0.001))}.org", score=float(random.normal(5, 1)), width=64,
                    height=64, format="WEBP", sha256=bits[:16].hex() * 2, perceptual_hash=bits[: HASH_BITS // 8 + 3],
                )
            )  # fmt: skip
            items[-1].rank = rank(pipeline.seed, items[-1].id, number, items[-1].score)
        for name in ("read", "check"):
            write_part(work.part(name, part_name(0, part)), items)
    write_count(work.fragment(0), -(-count // step))


def rest() -> None:
    curate(load_pipeline(Path("curation/folder"), checked_fields(Path(sys.argv[2]) / "out")), silent)


def peak(command: Sequence[str]) -> int:
    """Bytes that a command and its children hold at most; pages that they share count once (proportional set size)."""
    process = psutil.Popen(command)
    most = 0
    while process.poll() is None:
        held = 0
        for each in [process, *process.children(recursive=True)]:
            try:
                held += each.memory_full_info().pss
            except psutil.Error:
                continue
        most = max(most, held)
        time.sleep(EVERY)
    if process.returncode:
        raise SystemExit(f"it ended with {process.returncode}")
    return most


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
    return perceptual_hash(np.asarray(small))


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
    {"rate": rate, "memory": memory, "copies": copies, "rest": rest}[sys.argv[1]]()
