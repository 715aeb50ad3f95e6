"""Features of images on disk, measured once by any number of processes, through any kill."""

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from e2ed2.data import image_set
from e2ed2.data.image_set import ImageSet
from e2ed2.evaluation.features.extractors import Extractor
from e2ed2.system.errors import UserError
from e2ed2.system.files import atomic_file, locked, raise_if_disk_refused
from e2ed2.system.processes import ALONE, Share

SEGMENT = 32 * image_set.CHUNK  # images whose features are kept together until all are there: what a kill can lose

Progress = Callable[[int, int], None]


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
                first = sum(map(len, features[:-1]))
                bad = rows[first + int((~features[-1].isfinite()).any(1).nonzero()[0])]
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
    except Exception:  # a damaged header makes numpy raise nearly anything
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
