"""The bundled feature network of perceptual losses: SqueezeNet 1.1, offline, and never one that measures.

Iandola et al. 2016, arXiv:1602.07360; ImageNet weights from the package `ndf` (see `weights/squeezenet`).
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from e2ed2.models.folders.parts import refusing

WEIGHTS = Path(__file__).parents[2] / "weights" / "squeezenet" / "squeezenet.safetensors"
MEAN = (123.68, 116.779, 103.939)  # of the RGB values the network was trained on, 0 to 255
FIRES = {  # name -> channels in, squeezed, and of each of the two expansions
    "fire2": (64, 16, 64),
    "fire3": (128, 16, 64),
    "fire4": (128, 32, 128),
    "fire5": (256, 32, 128),
    "fire6": (256, 48, 192),
    "fire7": (384, 48, 192),
    "fire8": (384, 64, 256),
    "fire9": (512, 64, 256),
}


class Fire(nn.Module):
    """1x1 convolution to few channels, then 1x1 and 3x3 convolutions side by side."""

    def __init__(self, channels: int, squeezed: int, expanded: int):
        super().__init__()
        self.squeeze1x1 = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze1x1(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


class SqueezeNet(nn.Module):
    """Images -> the seven feature maps that LPIPS reads from this network (arXiv:1801.03924)."""

    mean: Tensor
    channels = (64, 128, 256, 384, 384, 512, 512)
    layer_weights = None  # those of LPIPS belong to other weights of the network

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1)
        for name, sizes in FIRES.items():
            self.add_module(name, Fire(*sizes))
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """float images [B, 3, H, W] in [-1, 1] -> 7 maps [B, C, h, w], 1/2 to 1/16 of the side."""
        fire = self.get_submodule
        maps = [F.relu(self.conv1((images + 1) * 127.5 - self.mean))]
        x = F.max_pool2d(maps[0], 3, 2, ceil_mode=True)
        maps.append(fire("fire3")(fire("fire2")(x)))
        x = F.max_pool2d(maps[1], 3, 2, ceil_mode=True)
        maps.append(fire("fire5")(fire("fire4")(x)))
        x = F.max_pool2d(maps[2], 3, 2, ceil_mode=True)
        for name in ("fire6", "fire7", "fire8", "fire9"):
            x = fire(name)(x)
            maps.append(x)
        return maps


def load_squeezenet() -> SqueezeNet:
    """The shipped weights in float32, frozen.

    Raises:
        UserError: they are missing or damaged.
    """
    network = SqueezeNet()
    with refusing(f"{WEIGHTS}: missing or damaged", "reinstall e2ed2"):
        network.load_state_dict(load_file(WEIGHTS))
    return network.eval().requires_grad_(False)
