"""Samples straight to files: any number of images in flat memory, by any number of processes, through any kill.

Once they are measured they may go to tar shards, or go.

Batches are fixed: `batch_size` requests from the first on, made whole where any of them is missing. So an image does
not depend, to the last bit, on when a run was interrupted or on how many processes shared it.
"""

import io
import json
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image

from e2ed2.sampling.generate import Request
from e2ed2.sampling.samples import (
    GRID_IMAGES,
    LoadedModel,
    about_samples,
    check_range,
    claim_folder,
    image_files,
    rate_before,
    read_png,
    write_grid,
    write_manifest,
)
from e2ed2.system.files import atomic_file, write_file
from e2ed2.system.pictures import png_bytes, to_picture
from e2ed2.system.processes import ALONE, Share

IMAGES_PER_SHARD = 1000

Progress = Callable[[int, int], None]
Keep = Literal["files", "shards", "nothing"]


@dataclass(frozen=True)
class SampleFiles:
    """files: PNG, one per request, in order; images_per_second: of all processes, None if that was never timed."""

    files: list[Path]
    images_per_second: float | None


def make_files(
    model: LoadedModel,
    requests: list[Request],
    out: Path,
    *,
    batch_size: int = 32,
    progress: Progress = lambda done, total: None,
    share: Share = ALONE,
) -> SampleFiles:
    """One image per request in `out/images`; those that are there, and whole, stay.

    Raises:
        UserError: `out` holds somebody else's files, or cannot be written.
    """
    check_range("--batch-size", batch_size, 1, 65_536)
    files = image_files(model, requests, out)
    rate = rate_before(claim_folder(out, "manifest.json", "grid.png"), model)
    if share.rank == 0:
        write_manifest(out, *about_samples(model, requests, files, rate))
    batches = [range(s, min(s + batch_size, len(requests))) for s in range(0, len(requests), batch_size)]
    own = [(batch, lost) for batch in batches[share.rank :: share.world] if (lost := _missing(files, batch))]
    started, made, total = time.perf_counter(), 0, sum(len(batch) for batch, _ in own)
    for batch, lost in own:
        for i, image in zip(batch, model.sampler([requests[i] for i in batch], batch_size), strict=True):
            if i in lost:
                write_file(files[i], png_bytes(to_picture(image)))
        made += len(batch)
        progress(made, total)
        rate = share.world * made / (time.perf_counter() - started)
    return SampleFiles(files, rate)


def finish_files(model: LoadedModel, requests: list[Request], out: Path, made: SampleFiles) -> None:
    """Manifest and grid of a folder whose images are all there."""
    write_manifest(out, *about_samples(model, requests, made.files, made.images_per_second))
    first = [image for path in made.files[:GRID_IMAGES] if (image := read_png(path)) is not None]
    write_grid(out, torch.stack(first))


def put_away(out: Path, requests: list[Request], files: list[Path], keep: Keep) -> None:
    """Leave measured images as they are, pack them as WebDataset shards `out/images-NNNNN.tar`, or remove them.

    Of image number i the shards hold `NNNNNN.png`, its prompt as `.txt` and its seed in `.json`.

    Raises:
        UserError: the disk is full or refuses; no image is lost.
    """
    if keep == "files":
        return
    for start in range(0, len(files) if keep == "shards" else 0, IMAGES_PER_SHARD):
        rows = range(start, min(start + IMAGES_PER_SHARD, len(files)))
        shard = out / f"images-{start // IMAGES_PER_SHARD:05d}.tar"
        with atomic_file(shard) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for i in rows:
                about = {"prompt": requests[i].prompt, "seed": requests[i].seed}
                _add(tar, f"{i:06d}.png", files[i].read_bytes())
                _add(tar, f"{i:06d}.txt", requests[i].prompt.encode())
                _add(tar, f"{i:06d}.json", json.dumps(about).encode())
    for path in files:
        path.unlink()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # no times and owners: equal images make equal shards
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _missing(files: list[Path], batch: range) -> set[int]:
    """The images of a batch that are not there, or damaged."""
    return {i for i in batch if not _is_whole(files[i])}


def _is_whole(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            picture.verify()  # checksums, without decoding
    except (OSError, SyntaxError):
        return False
    return True
