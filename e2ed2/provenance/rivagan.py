"""RivaGAN (Zhang et al. 2019, arXiv:1909.01285), a mark in the pixels of an image, by the weights that ship with us.

Of a video one frame is left. The shipped weights are those of the package `invisible-watermark` (`weights/rivagan`).
"""

from functools import lru_cache
from math import sqrt
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from e2ed2.models.folders.parts import refusing
from e2ed2.system.drawing.pictures import to_picture

WEIGHTS = Path(__file__).parents[1] / "weights" / "rivagan" / "rivagan.safetensors"
NUM_BITS = 32
WIDTH, KERNEL = 32, 11  # channels and side of every convolution
STRENGTH = 0.016  # of the most that a pixel in [-1, 1] is changed: two grey levels of 255
BIT = 0.52  # an output above it is a one
NUM_PIXELS = 256 * 256  # of the copy that is marked and read: a mark is found at the size at which it was put


class Part(nn.Module):
    """What encoder and decoder share: which bits count at a pixel, and a pair of convolutions."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.attention = nn.Sequential(*_pair(3, NUM_BITS), nn.Tanh(), nn.BatchNorm2d(NUM_BITS))
        self.conv = nn.Sequential(*_pair(channels, out))

    def weights(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] -> shares of the bits at each pixel, [B, 32, H, W]."""
        return self.attention(images).softmax(1)


class RivaGan(nn.Module):
    """Puts 32 bits into images [B, 3, H, W] in [-1, 1], and reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Part(4, 3), Part(3, NUM_BITS)

    def change(self, images: Tensor, bits: Tensor) -> Tensor:
        """What is to be added to images, of their shape, to mark them with bits of 0 and 1, [32]."""
        data = (self.encoder.weights(images) * (2 * bits - 1)[:, None, None]).sum(1, keepdim=True)
        return STRENGTH * self.encoder.conv(torch.cat([images, data], 1)).tanh()

    def read(self, images: Tensor) -> Tensor:
        """One number a bit, [B, 32]: above `BIT` for a one."""
        return (self.decoder.weights(images) * self.decoder.conv(images)).mean((2, 3))


def _pair(channels: int, out: int) -> list[nn.Module]:
    first, second = (nn.Conv2d(i, o, KERNEL, padding=KERNEL // 2) for i, o in ((channels, WIDTH), (WIDTH, out)))
    return [first, nn.Tanh(), nn.BatchNorm2d(WIDTH), second]


@lru_cache(maxsize=1)
def load_rivagan() -> RivaGan:
    """The shipped weights, on the GPU where there is one.

    Raises:
        UserError: they are missing or damaged.
    """
    network = RivaGan()
    with refusing(f"{WEIGHTS}: missing or damaged", "reinstall e2ed2"):
        tensors = load_file(WEIGHTS)
        counts = {name: torch.tensor(0) for name in network.state_dict() if name.endswith("num_batches_tracked")}
        network.load_state_dict(tensors | counts)
    return network.eval().requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def embed(picture: Image.Image, bits: Tensor) -> Image.Image:
    """An RGB picture with 32 bits of 0 and 1 in it, which are drawn at `NUM_PIXELS` and brought to its size."""
    network = load_rivagan()
    device = next(network.parameters()).device
    pixels, copy = _tensor(picture), _tensor(_resized(picture))
    change = network.change(copy.to(device), bits.to(device).float()).float().cpu()
    if copy.shape != pixels.shape:
        change = F.interpolate(change, pixels.shape[-2:], mode="bilinear", antialias=True)
    marked = ((pixels + change).clamp(-1, 1) + 1) * 127.5
    return to_picture(marked[0].round().byte())


@torch.inference_mode()
def extract(picture: Image.Image) -> Tensor:
    """What is read of each of 32 bits, whether the RGB picture was marked or not: above 0 for a one, [32]."""
    network = load_rivagan()
    read = network.read(_tensor(_resized(picture)).to(next(network.parameters()).device))
    return read[0].float().cpu() - BIT


def _resized(picture: Image.Image) -> Image.Image:
    """Of `NUM_PIXELS`, its shape kept."""
    scale = sqrt(NUM_PIXELS / (picture.width * picture.height))
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return picture if (width, height) == picture.size else picture.resize((width, height), Image.Resampling.LANCZOS)


def _tensor(picture: Image.Image) -> Tensor:
    """[1, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
