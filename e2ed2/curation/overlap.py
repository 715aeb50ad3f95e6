"""What of a set is also in one that models are evaluated on: captions word for word, images by their hashes."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2ed2.curation.hashes import MIRROR, distances
from e2ed2.curation.items import Item
from e2ed2.curation.pipeline import CheckConfig
from e2ed2.curation.stages.check import check, decoders
from e2ed2.data.captions import read_captions
from e2ed2.data.sources.folder import list_images

NEAR = 16  # bits
NUM_NAMED = 20


class EvaluationSet:
    """One set, by its captions or its images, in memory: such sets are of tens of thousands.

    Args:
        path: a file of captions, as `e2ed2 evaluate` reads them, or a folder of images.
    Raises:
        UserError: neither.
    """

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        self.captions: set[bytes] = set()
        self.num_captions = self.num_images = 0
        self.found: list[tuple[str, str]] = []  # (id, `caption` or the image's name)
        images = [*map(str, list_images(path, "report.evaluation_sets"))] if path.is_dir() else []
        if not path.is_dir():
            self.captions = {_digest(caption) for caption in read_captions(path, "report.evaluation_sets")}
        items = [Item(number, image, image, image) for number, image in enumerate(images)]
        with decoders() as pool:
            check(items, CheckConfig(), pool)
        self._images = [item for item in items if item.perceptual_hash is not None]
        self._hashes = np.frombuffer(b"".join(item.perceptual_hash or b"" for item in self._images), np.uint8)
        self._hashes = self._hashes.reshape(len(self._images), -1) if self._images else self._hashes
        signs = self._hashes[..., : len(MIRROR)].copy()
        self._words = np.ascontiguousarray(signs.view(np.uint64).T)  # [HASH_BITS / 64, N]

    @property
    def size(self) -> int:
        return len(self.captions) or len(self._images)

    def add(self, items: Iterable[Item]) -> None:
        """Look for kept items in the set."""
        for item in items:
            if not item.kept:
                continue
            if _digest(item.caption) in self.captions or _digest(item.original_caption) in self.captions:
                self.num_captions += 1
                self._name(item, "its caption")
            if (image := self._near(item)) is not None:
                self.num_images += 1
                self._name(item, Path(image.source).name)

    def _name(self, item: Item, what: str) -> None:
        if len(self.found) < NUM_NAMED:
            self.found.append((item.id, what))

    def _near(self, item: Item) -> Item | None:
        """The first image of the set that is near; all are compared, as bands miss some of those far in bits."""
        if item.perceptual_hash is None or not self._images:
            return None
        bits = np.frombuffer(item.perceptual_hash, np.uint8)
        signs = bits[: len(MIRROR)]
        apart = np.minimum(*(self._count_apart(each.view(np.uint64)) for each in (signs, signs ^ MIRROR)))
        rows = np.flatnonzero(apart <= NEAR)
        near = rows[distances(bits, self._hashes[rows], MIRROR) <= NEAR]  # in colours too
        return self._images[int(near[0])] if len(near) else None

    def _count_apart(self, words: NDArray[np.uint64]) -> NDArray[np.uint8]:
        """[N]: bits in which a hash differs from each image's."""
        return np.bitwise_count(self._words ^ words[:, None]).sum(0, dtype=np.uint8)


def _digest(caption: str) -> bytes:
    """Of its words alone; 8 bytes."""
    return hashlib.blake2b(" ".join(re.findall(r"\w+", caption.lower())).encode(), digest_size=8).digest()
