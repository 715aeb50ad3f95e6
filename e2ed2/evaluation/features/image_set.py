"""Image files in a fixed order, read as they are needed, and their features on disk, through any kill."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from e2ed2.data.folder import IMAGE_SUFFIXES, visible_files
from e2ed2.data.transforms import IMAGE_FORMATS, to_rgb
from e2ed2.evaluation.features.extractors import Extractor
from e2ed2.system.errors import UserError
from e2ed2.system.files import atomic_file, locked, raise_if_disk_refused
from e2ed2.system.processes import ALONE, Share

BESIDE_IMAGES = {".txt", ".json", ".jsonl", ".csv", ".safetensors", ".npy"}  # captions and our own files
CHUNK = 32  # images in memory at a time, and in one call of a network: fixed, so that features do not depend on it
SEGMENT = 32 * CHUNK  # images whose features are kept together until all are there: what a kill can lose

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ImageSet:
    """Images of one kind, brought to one size: centre crop to the short side, then resized.

    Attributes:
        kind: names the set in messages, as `reference`.
        size: pixels a side, None for images as they are.
        resample: `lanczos` or `bicubic`.
        may_enlarge: whether an image smaller than `size` is taken.
    """

    paths: list[Path]
    kind: str
    size: int | None = None
    resample: str = "lanczos"
    may_enlarge: bool = False

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Tensor:
        """Image `index`, uint8 [3, H, W].

        Raises:
            UserError: it cannot be decoded, or would have to be enlarged.
        """
        path = self.paths[index]
        try:
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                picture = to_rgb(ImageOps.exif_transpose(image))
        except Exception as error:  # a broken file makes decoders raise nearly anything
            raise UserError(f"{self.kind} image {path}: cannot be decoded ({error}); mend or remove it") from error
        if self.size is not None and picture.size != (self.size, self.size):
            if min(picture.size) < self.size and not self.may_enlarge:
                raise UserError(
                    f"{self.kind} image {path}: {picture.width}x{picture.height} pixels, but the protocol measures at "
                    f"{self.size} and enlarges none: give larger images, or a smaller images.size"
                )
            picture = _square(picture, self.size, Image.Resampling[self.resample.upper()])
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)

    def chunks(self, rows: range) -> Iterator[list[Tensor]]:
        """Images of some rows in order, `CHUNK` at a time."""
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for start in range(0, len(rows), CHUNK):
                yield list(pool.map(self.read, rows[start : start + CHUNK]))

    def sha256(self) -> str:
        """Hex digest of the files' contents in order, and of how they are brought to size."""
        digest = hashlib.sha256(f"{self.size} {self.resample} {len(self)}".encode())
        for path in self.paths:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def list_images(folder: Path, kind: str) -> list[Path]:
    """The images of a folder and its subfolders, by path.

    Raises:
        UserError: no such folder, none in it, or a file that is neither image nor caption.
    """
    if not folder.is_dir():
        raise UserError(f"{kind} {folder}: no such folder; give one of images, its place by --data or in the protocol")
    paths = []
    for path in sorted(p for p in visible_files(folder) if p.is_file()):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            paths.append(path)
        elif path.suffix.lower() not in BESIDE_IMAGES:
            raise UserError(f"{kind} {folder}: {path.relative_to(folder)} is no image; remove it from the folder")
    if not paths:
        raise UserError(f"{kind} {folder}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return paths


def stored_features(images: ImageSet, sha256: str, extract: Extractor, folder: Path, progress: Progress) -> Tensor:
    """Features [N, D] of a set, memory-mapped from a file in `folder` that is kept under their hash.

    Args:
        sha256: of the set, `images.sha256()`.
    Raises:
        UserError: features that are not finite; names the image.
    """
    path = _features_file(sha256, extract, folder)
    store_segments(images, sha256, extract, folder, progress)
    with locked(folder):
        if not path.exists():
            _join(images, path)
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


def store_segments(
    images: ImageSet, sha256: str, extract: Extractor, folder: Path, progress: Progress, share: Share = ALONE
) -> None:
    """This process' share of what `stored_features` reads; segments that are there stay.

    Another evaluation may join and remove the same segments meanwhile: the folder is locked for that, and to write one.
    """
    path = _features_file(sha256, extract, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise_if_disk_refused(folder, error)
    if path.exists():
        return
    lost = [(file, rows) for file, rows in _segments(images, path)[share.rank :: share.world] if not file.exists()]
    done, total = 0, sum(len(rows) for _, rows in lost)
    for file, rows in lost:
        features = []
        for chunk in images.chunks(rows):
            features.append(extract(chunk))
            if not features[-1].isfinite().all():
                bad = rows[len(features) * CHUNK - CHUNK + int((~features[-1].isfinite()).any(1).nonzero()[0])]
                what = f"features of {extract.name} are not finite; check both"
                raise UserError(f"{images.kind} image {images.paths[bad]}: {what}")
            done += len(chunk)
            progress(done, total)
        with locked(folder):
            if path.exists():
                return
            with atomic_file(file) as temporary, temporary.open("wb") as out:
                np.save(out, torch.cat(features).numpy())


def _features_file(sha256: str, extract: Extractor, folder: Path) -> Path:
    key = hashlib.sha256(f"2 {sha256} {extract.name} {extract.weights_sha256}".encode()).hexdigest()
    return folder / f"features-{key}.npy"


def _segments(images: ImageSet, path: Path) -> list[tuple[Path, range]]:
    """Files of the parts of a features file, and the rows of each."""
    starts = range(0, len(images), SEGMENT)
    return [(path.with_suffix("") / f"{s:08d}.npy", range(s, min(s + SEGMENT, len(images)))) for s in starts]


def _join(images: ImageSet, path: Path) -> None:
    """All segments in one file, mapped: memory need not hold them."""
    segments = [(np.load(file, mmap_mode="r"), rows) for file, rows in _segments(images, path)]
    shape = (len(images), segments[0][0].shape[1])
    with atomic_file(path) as temporary:
        joined = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        for features, rows in segments:
            joined[rows.start : rows.stop] = features
        joined.flush()


def _square(picture: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side)).resize((size, size), resample)
