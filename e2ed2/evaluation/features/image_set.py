"""Images in a fixed order, read as they are needed, and their features on disk, through any kill."""

import hashlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from e2ed2.data.transforms import IMAGE_FORMATS, to_rgb
from e2ed2.evaluation.features.extractors import Extractor
from e2ed2.system.errors import UserError
from e2ed2.system.files import atomic_file, locked, raise_if_disk_refused
from e2ed2.system.processes import ALONE, Share

CHUNK = 32  # images in memory at a time, and in one call of a network: fixed, so that features do not depend on it
SEGMENT = 32 * CHUNK  # images whose features are kept together until all are there: what a kill can lose

Progress = Callable[[int, int], None]


class ImageSet(ABC):
    """Images of one kind, at hand one by one. `kind` names the set in messages, as `reference`."""

    kind: str

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Tensor:
        """Image `index`, uint8 [3, H, W]."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What a message calls it."""

    @abstractmethod
    def sha256(self) -> str:
        """Hex digest of all images in order, as they are measured."""

    def chunks(self, rows: Sequence[int]) -> Iterator[list[Tensor]]:
        """Images of some rows in order, `CHUNK` at a time."""
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for start in range(0, len(rows), CHUNK):
                yield list(pool.map(self.read, rows[start : start + CHUNK]))


@dataclass(frozen=True)
class TensorImages(ImageSet):
    """Images in memory, uint8 [N, 3, H, W]."""

    images: Tensor
    kind: str

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Tensor:
        return self.images[index]

    def name(self, index: int) -> str:
        return f"number {index}"

    def sha256(self) -> str:
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class FileImages(ImageSet):
    """Image files, brought to one size: centre crop to the short side, then resized.

    Attributes:
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

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def sha256(self) -> str:
        """Hex digest of the files' contents in order, and of how they are brought to size."""
        digest = hashlib.sha256(f"{self.size} {self.resample} {len(self)}".encode())
        for path in self.paths:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


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
        if (features := _read(path, len(images))) is None:
            _join(images, path)
            features = _read(path, len(images))
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)
    assert features is not None
    return torch.from_numpy(features)


def store_segments(
    images: ImageSet, sha256: str, extract: Extractor, folder: Path, progress: Progress, share: Share = ALONE
) -> None:
    """This process' share of what `stored_features` reads; segments that are there, and whole, stay.

    Another evaluation may join and remove the same segments meanwhile: the folder is locked for that, and to write one.
    """
    path = _features_file(sha256, extract, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise_if_disk_refused(folder, error)
    if _read(path, len(images)) is not None:
        return
    own = _segments(images, path)[share.rank :: share.world]
    lost = [(file, rows) for file, rows in own if _read(file, len(rows)) is None]
    done, total = 0, sum(len(rows) for _, rows in lost)
    for file, rows in lost:
        features = []
        for chunk in images.chunks(rows):
            features.append(extract(chunk))
            if not features[-1].isfinite().all():
                bad = rows[len(features) * CHUNK - CHUNK + int((~features[-1].isfinite()).any(1).nonzero()[0])]
                what = f"features of {extract.name} are not finite; check both"
                raise UserError(f"{images.kind} image {images.name(bad)}: {what}")
            done += len(chunk)
            progress(done, total)
        with locked(folder):
            if _read(path, len(images)) is not None:
                return
            with atomic_file(file) as temporary, temporary.open("wb") as out:
                np.save(out, torch.cat(features).numpy())


def _features_file(sha256: str, extract: Extractor, folder: Path) -> Path:
    key = hashlib.sha256(f"2 {sha256} {extract.name} {extract.weights_sha256}".encode()).hexdigest()
    return folder / f"features-{key}.npy"


def _read(path: Path, num_rows: int) -> np.ndarray | None:
    """Features float32 [num_rows, D], mapped; None where they are not there yet, or damaged."""
    try:
        features = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, OverflowError, MemoryError):
        return None
    is_whole = features.ndim == 2 and len(features) == num_rows and features.dtype == np.float32
    return features if is_whole else None


def _segments(images: ImageSet, path: Path) -> list[tuple[Path, range]]:
    """Files of the parts of a features file, and the rows of each."""
    starts = range(0, len(images), SEGMENT)
    return [(path.with_suffix("") / f"{s:08d}.npy", range(s, min(s + SEGMENT, len(images)))) for s in starts]


def _join(images: ImageSet, path: Path) -> None:
    """All segments in one file, mapped: memory need not hold them."""
    segments = [(np.load(file, mmap_mode="r", allow_pickle=False), rows) for file, rows in _segments(images, path)]
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
