"""Sample folders: `images/*.png`, `grid.png`, `manifest.json`. Any number of images in flat memory, through any kill.

A file's name ends in a hash of all that decides its pixels (weights, steps, prompt, seed, version), so that an
interrupted run goes on where it stopped, and images of another model are never taken for this one's.

Batches are fixed: `batch_size` requests from the first on, made whole where any of them is missing. So an image does
not depend, to the last bit, on when a run was interrupted or on how many processes shared it.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from e2ed2 import __version__
from e2ed2.data.sources.shards import write_tar
from e2ed2.sampling.generate import Request
from e2ed2.sampling.label import UNLABELLED, Label, made_by
from e2ed2.sampling.model import LoadedModel
from e2ed2.system.drawing.pictures import captioned, png_bytes, shown, to_picture
from e2ed2.system.errors import UserError, check_range
from e2ed2.system.files import sweep, write_file
from e2ed2.system.processes import ALONE, Share
from e2ed2.system.readers.json_file import read_typed
from e2ed2.system.readers.text import fit_text
from e2ed2.system.readers.typed import Record

MADE_BY = "e2ed2"
MAKER = f"{MADE_BY} {__version__}"
MANIFEST_FILE, GRID_FILE = "manifest.json", "grid.png"
GRID_IMAGES, GRID_ROWS, GRID_COLUMNS = 64, 32, 8
IMAGES_PER_SHARD = 1000

Progress = Callable[[int, int], None]
Keep = Literal["files", "shards", "nothing"]


class ManifestRow(Record):
    """One image: its file, in the folder or elsewhere, and what it was made from; the seed where one is known."""

    file: str
    prompt: str
    seed: int | None = None


class Manifest(Record):
    """`manifest.json`: whose images these are, each of them, and what labels them; None where nobody said."""

    made_by: str
    model: str | None = None
    model_sha256: str | None = None
    num_inference_steps: int | None = None
    nfe: int | None = None
    images_per_second: float | None = None
    labels: list[str] | None = None
    images: list[ManifestRow] = []


@dataclass(frozen=True)
class SampleFiles:
    """files: PNG, one per request, in order; images_per_second: of all processes, None if that was never timed."""

    files: list[Path]
    images_per_second: float | None


def requests_for(prompts: list[str], num: int, seed: int) -> list[Request]:
    """`num` images for each prompt, with seeds `seed`, `seed` + 1, ...

    Raises:
        UserError: an empty prompt, one that is no text, or a number out of range.
    """
    check_range("--num", num, 1, 100_000)
    check_range("--seed", seed, 0, 2**62)
    for i, prompt in enumerate(prompts, 1):
        if not prompt.strip():
            raise UserError(f"prompt {i} is empty: say what to draw")
        try:
            fit_text(prompt)
        except ValueError as error:
            raise UserError(f"prompt {i}: {error}; give it as UTF-8") from error
    return [Request(prompt, seed + i) for prompt in prompts for i in range(num)]


def check_batch_size(batch_size: int) -> None:
    """Raise UserError when it is out of range: before anything is loaded, where a caller can."""
    check_range("--batch-size", batch_size, 1, 65_536)


def make_files(
    model: LoadedModel,
    requests: list[Request],
    out: Path,
    *,
    batch_size: int = 32,
    progress: Progress = lambda done, total: None,
    share: Share = ALONE,
    label: Label = UNLABELLED,
) -> SampleFiles:
    """One image per request in `out/images`; those that are there, and whole, stay.

    The first of several processes waits for all, then writes manifest and grid.

    Raises:
        UserError: `out` holds somebody else's files, or cannot be written.
    """
    check_batch_size(batch_size)
    files = image_files(model, requests, out, label)
    before = claim_folder(out, MANIFEST_FILE, GRID_FILE)
    rate = rate_before(before, model)
    if before is not None and any(file.exists() for file in files):
        label = label.beside(before.labels or ())
    if share.rank == 0:
        _describe(model, requests, files, rate, label, out)
    batches = [range(s, min(s + batch_size, len(requests))) for s in range(0, len(requests), batch_size)]
    own = [(batch, lost) for batch in batches[share.rank :: share.world] if (lost := _missing(files, batch))]
    started, made, total = time.perf_counter(), 0, sum(len(batch) for batch, _ in own)
    for batch, lost in own:
        for i, image in zip(batch, model.sampler([requests[i] for i in batch], batch_size), strict=True):
            if i in lost:
                made_from = made_by(model, requests[i].prompt, requests[i].seed)
                write_file(files[i], label.png(to_picture(image), made_from))
        made += len(batch)
        progress(made, total)
        rate = share.world * made / (time.perf_counter() - started)
    share.wait()
    if share.rank == 0:
        _describe(model, requests, files, rate, label, out)
        first = zip(requests[:GRID_IMAGES], map(read_png, files[:GRID_IMAGES]), strict=True)
        sheet = grid([(request.prompt, image) for request, image in first if image is not None])
        write_file(out / GRID_FILE, label.png(sheet, made_by(model)))
    return SampleFiles(files, rate)


def save_images(out: Path, name: str, images: Tensor, prompts: Sequence[str]) -> list[Path]:
    """A sample folder of images that no sampler made, such as real ones; returns their files.

    Args:
        name: stands as `model` in the manifest. images: uint8 [N, 3, H, W]; prompts: of each.
    """
    claim_folder(out, MANIFEST_FILE, GRID_FILE)
    rows = []
    for i, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        rows.append(ManifestRow(file=f"images/{i:06d}-{_words(prompt)}-{name}.png", prompt=prompt))
        write_file(out / rows[-1].file, png_bytes(to_picture(image)))
    write_manifest(out, Manifest(made_by=MAKER, model=name, images=rows))
    write_file(out / GRID_FILE, png_bytes(grid(list(zip(prompts, images[:GRID_IMAGES], strict=False)))))
    return [out / row.file for row in rows]


def put_away(out: Path, requests: list[Request], files: list[Path], keep: Keep) -> None:
    """Leave measured images as they are, pack them as WebDataset shards `out/images-NNNNN.tar`, or remove them.

    Of image number i the shards hold `NNNNNN.png`, its prompt as `.txt` and its seed in `.json`. With `nothing` the
    features that were kept of the images go too.

    Raises:
        UserError: the disk is full or refuses; no image is lost.
    """
    if keep == "files":
        return
    for start in range(0, len(files) if keep == "shards" else 0, IMAGES_PER_SHARD):
        members: list[tuple[str, bytes | Path]] = []
        for i in range(start, min(start + IMAGES_PER_SHARD, len(files))):
            about = {"prompt": requests[i].prompt, "seed": requests[i].seed}
            members += [(f"{i:06d}.png", files[i]), (f"{i:06d}.txt", requests[i].prompt.encode())]
            members.append((f"{i:06d}.json", json.dumps(about).encode()))
        write_tar(out / f"images-{start // IMAGES_PER_SHARD:05d}.tar", members)
    for path in files:
        path.unlink()
    if keep == "nothing":
        shutil.rmtree(out / "features", ignore_errors=True)


def claim_folder(out: Path, *names: str) -> Manifest | None:
    """Make a folder for samples and return the manifest of an earlier run in it, None where there was none.

    Raises:
        UserError: it cannot be made, or holds one of `names` that e2ed2 did not write.
    """
    foreign = [name for name in names if (out / name).exists()]
    manifest = read_manifest(out)  # after that look: a process beside this one writes the manifest first
    if foreign and manifest is None:
        raise UserError(f"--out {out}: {foreign[0]} there is not from e2ed2 and stays; name another folder")
    try:
        (out / "images").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror}); name another folder") from error
    sweep(out / "images")
    return manifest


def read_manifest(out: Path) -> Manifest | None:
    """The manifest of a sample folder; None where there is none, or none of ours."""
    try:
        manifest = read_typed(out / MANIFEST_FILE, Manifest, "samples", "")
    except UserError:
        return None
    return manifest if manifest.made_by.startswith(MADE_BY) else None


def write_manifest(out: Path, manifest: Manifest) -> None:
    """Before the images, so that the folder is known as ours, and once more after them."""
    write_file(out / MANIFEST_FILE, (json.dumps(manifest.model_dump(), indent=1) + "\n").encode())


def grid(images: Sequence[tuple[str, Tensor]]) -> Image.Image:
    """`grid.png`, of the first (prompt, uint8 [3, H, W]): each prompt in rows of its own, under its words."""
    by_prompt: dict[str, list[Image.Image]] = {}
    for prompt, image in images:
        by_prompt.setdefault(prompt, []).append(shown(to_picture(image)))
    rows = [
        (prompt if start == 0 else "", pictures[start : start + GRID_COLUMNS])
        for prompt, pictures in by_prompt.items()
        for start in range(0, len(pictures), GRID_COLUMNS)
    ]
    return captioned(rows[:GRID_ROWS])[0]


def read_images(out: Path) -> list[tuple[ManifestRow, Tensor]]:
    """(manifest row, uint8 [3, H, W]) of every image of a sample folder that is whole."""
    manifest = read_manifest(out)
    rows = manifest.images if manifest else []
    return [(row, image) for row in rows if (image := read_png(out / row.file)) is not None]


def read_png(path: Path) -> Tensor | None:
    """uint8 [3, H, W], or None when the file is missing or damaged."""
    try:
        with Image.open(path) as picture:
            return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # SyntaxError: PIL's for a broken PNG
        return None


def image_files(model: LoadedModel, requests: list[Request], out: Path, label: Label = UNLABELLED) -> list[Path]:
    """Where the image of each request lies in a sample folder; in the order of their names up to a million."""
    return [out / "images" / file_name(model, i, request, label) for i, request in enumerate(requests)]


def file_name(model: LoadedModel, index: int, request: Request, label: Label = UNLABELLED) -> str:
    """Number, words of the prompt, and the hash of all that decides the file's pixels, and of labels it must bear."""
    made_from = [model.sha256, model.num_inference_steps, request.prompt, request.seed, __version__, *label.named]
    digest = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:10]
    return f"{index:06d}-{_words(request.prompt)}-{digest}.png"


def rate_before(manifest: Manifest | None, model: LoadedModel) -> float | None:
    """Images per second of an earlier run of the same model at the same NFE; None for any other's."""
    if manifest is None or (manifest.model_sha256, manifest.nfe) != (model.sha256, model.sampler.nfe):
        return None
    return manifest.images_per_second


def _describe(
    model: LoadedModel, requests: list[Request], files: list[Path], rate: float | None, label: Label, out: Path
) -> None:
    rows = [
        ManifestRow(file=f"images/{path.name}", prompt=request.prompt, seed=request.seed)
        for path, request in zip(files, requests, strict=True)
    ]
    manifest = Manifest(
        made_by=MAKER,
        model=model.name,
        model_sha256=model.sha256,
        num_inference_steps=model.num_inference_steps,
        nfe=model.sampler.nfe,
        images_per_second=rate,
        labels=list(label.kinds),
        images=rows,
    )
    write_manifest(out, manifest)


def _words(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40] or "image"


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
