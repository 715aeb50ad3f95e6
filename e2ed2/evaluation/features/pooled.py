"""What the networks that come with pip share: images brought to one size, a few at a time, features pooled."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from e2ed2.system.errors import UserError
from e2ed2.system.files import file_sha256

INPUT_SIZE = 224
_CPU_CHUNK, _GPU_CHUNK = 4, 256


class PooledFeatures(ABC):
    """The last feature maps of a convolutional network, averaged over their places.

    Always float32, TF32 off, so that figures from different machines compare. On a CPU, chunks of four images go to
    one-threaded workers: four images stay in a core's cache, and no worker waits for another.

    Attributes:
        width: of the features.
    """

    width: ClassVar[int]

    def __init__(self, device: str) -> None:
        self._device = torch.device(device)

    @abstractmethod
    def maps(self, pixels: Tensor) -> Tensor:
        """Feature maps [N, width, h, w] of pixels float32 [N, 3, 224, 224] in 0 to 255."""

    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        """Features float32 [N, width] on the CPU of uint8 images [3, H, W] of any size each.

        Each is resized to 224 (bicubic, antialiased). What the others are makes no difference but rounding.
        """
        for image in images:
            if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
                found = f"{image.dtype} {list(image.shape)}"
                raise UserError(f"images are {found}: features need uint8 [3, H, W], values 0 to 255")
        on_cpu = self._device.type == "cpu"
        size = _CPU_CHUNK if on_cpu else _GPU_CHUNK
        chunks = [images[start : start + size] for start in range(0, len(images), size)]
        workers = _one_thread_workers() if on_cpu else ThreadPoolExecutor(1)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), workers as pool:
            features = [*pool.map(self._pooled, chunks)]
        return torch.cat(features) if features else torch.empty(0, self.width)

    @torch.inference_mode()
    def _pooled(self, images: Sequence[Tensor]) -> Tensor:
        if len({image.shape for image in images}) == 1:
            pixels = self._resized(torch.stack([*images]))
        else:
            pixels = torch.cat([self._resized(image[None]) for image in images])
        return self.maps(pixels).mean(dim=(2, 3)).cpu()

    def _resized(self, images: Tensor) -> Tensor:
        pixels = images.to(self._device).float()
        return F.interpolate(pixels, (INPUT_SIZE, INPUT_SIZE), mode="bicubic", antialias=True)


@contextmanager
def _one_thread_workers() -> Iterator[ThreadPoolExecutor]:
    """As many workers as torch had threads, each computing with one; torch's own setting returns after."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(num_threads) as pool:
            yield pool
    finally:
        torch.set_num_threads(num_threads)


def check_weights(path: Path, sha256: str, remedy: str) -> Path:
    """The file of weights that a figure is measured with; raises UserError where it is another or none."""
    if not path.is_file() or (found := file_sha256(path)) != sha256:
        found = found if path.is_file() else "no file"
        raise UserError(f"{path}: sha256 is {found}, must be {sha256}: run `{remedy}`")
    return path
