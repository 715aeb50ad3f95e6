"""The usual reference of class-conditional models: one .npz of real images and of statistics of their whole data set.

As github.com/openai/guided-diffusion made it (arXiv:2105.05233): `arr_0` are images uint8 [N, H, W, 3], `mu` and
`sigma` the mean and covariance of Inception's features, `mu_s` and `sigma_s` of those of sFID.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from e2ed2.data.image_set import ImageSet
from e2ed2.system.errors import UserError, said
from e2ed2.system.files import file_sha256

STATISTICS = {"inception_legacy": ("mu", "sigma"), "inception_spatial": ("mu_s", "sigma_s")}  # network -> their arrays
IMAGES = "arr_0"


@dataclass(frozen=True)
class BatchImages(ImageSet):
    """The images of such a file; they are read into memory when one is first asked for."""

    path: Path
    num_images: int
    kind: str = "reference"

    def __len__(self) -> int:
        return self.num_images

    @cached_property
    def _images(self) -> np.ndarray:
        return _array(self.path, IMAGES)

    def read(self, index: int) -> Tensor:
        """Image `index`, uint8 [3, H, W]."""
        return torch.from_numpy(self._images[index]).permute(2, 0, 1)

    def name(self, index: int) -> str:
        return f"{self.path}: number {index}"

    def sha256(self) -> str:
        """Hex digest of the file, statistics and all."""
        return file_sha256(self.path)


def read_batch(path: Path, size: int | None, source: str) -> tuple[BatchImages, dict[str, tuple[Tensor, Tensor]]]:
    """(The images, network -> mean [D] and covariance [D, D]) of a reference batch.

    Args:
        size: pixels along a side that the images must have. source: where the file is to be had.
    Raises:
        UserError: there is no such file, it is damaged, or lacks something.
    """
    if not path.is_file():
        raise UserError(f"reference {path}: no such file; fetch {source}")
    shape = _shape(path)
    is_square = len(shape) == 4 and shape[3] == 3 and shape[1:3] == (size or shape[1], size or shape[1])
    if not is_square:
        wanted = f"images [N, {size}, {size}, 3]"
        raise UserError(f"reference {path}: {IMAGES} is {[*shape]}, must be {wanted}; fetch {source}")
    found = {}
    for network, names in STATISTICS.items():
        mean, covariance = (torch.from_numpy(_array(path, name)).double() for name in names)
        if mean.ndim != 1 or covariance.shape != 2 * mean.shape:
            problem = f"{', '.join(names)} are {[*mean.shape]} and {[*covariance.shape]}, must be [D] and [D, D]"
            raise UserError(f"reference {path}: {problem}; fetch {source}")
        found[network] = mean, covariance
    return BatchImages(path, shape[0]), found


def _shape(path: Path) -> tuple[int, ...]:
    """Of the images, which are not read."""
    try:
        with np.load(path, allow_pickle=False) as file, file.zip.open(f"{IMAGES}.npy") as part:
            version = np.lib.format.read_magic(part)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(part)
    except Exception as error:  # a damaged archive makes numpy raise nearly anything
        raise UserError(f"reference {path}: no reference batch ({said(error)}); fetch it again") from error
    if dtype != np.uint8:
        raise UserError(f"reference {path}: {IMAGES} is of {dtype}, must be uint8; fetch it again")
    return shape


def _array(path: Path, name: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as file:
            return file[name]
    except Exception as error:
        raise UserError(f"reference {path}: {name} cannot be read ({said(error)}); fetch the file again") from error
