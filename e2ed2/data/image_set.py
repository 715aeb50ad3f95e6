"""Images without captions in a fixed order, read as they are needed and brought to one size."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from e2ed2.data.image_files import IMAGE_FORMATS, to_rgb
from e2ed2.system.errors import UserError

CHUNK = 32  # images in memory at a time, and in one call of a network: fixed, so that features do not depend on it


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


def _square(picture: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side)).resize((size, size), resample)
