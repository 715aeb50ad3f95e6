"""The Inception network of FID: TensorFlow's of 2015-12-05, as Heusel et al. 2017 (arXiv:1706.08500) used it.

Layers and their names follow the converted weights that pytorch-fid and torch-fidelity share, so that the file loads
as it is. It differs from torchvision's Inception v3 in its pooling: averages ignore the padding, and the last block
takes a maximum.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2ed2.system.errors import UserError, said

WEIGHTS_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
SIDE = 299
FEATURE_DIM = 2048
SPATIAL_CHANNELS = 7  # of sFID: 17 x 17 x 7 numbers are about as many as the features

Conv = tuple[str, int, int | tuple[int, int]]  # (name, channels out, kernel)
Step = Conv | str | list[Conv]  # a convolution, a pooling, or a fork whose outputs are joined


def _mixed_a(pool: int) -> list[list[Step]]:
    three: list[Step] = [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)]
    five: list[Step] = [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)]
    return [[("branch1x1", 64, 1)], five, three, ["average", ("branch_pool", pool, 1)]]


def _mixed_c(width: int) -> list[list[Step]]:
    row, column = (1, 7), (7, 1)
    one: list[Step] = [("branch7x7_1", width, 1), ("branch7x7_2", width, row), ("branch7x7_3", 192, column)]
    kernels: tuple[int | tuple[int, int], ...] = (1, column, row, column, row)
    two: list[Step] = [(f"branch7x7dbl_{i}", 192 if i == 5 else width, kernel) for i, kernel in enumerate(kernels, 1)]
    return [[("branch1x1", 192, 1)], one, two, ["average", ("branch_pool", 192, 1)]]


def _mixed_e(pool: str) -> list[list[Step]]:
    fork: list[Conv] = [("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1))]
    fork_double: list[Conv] = [("branch3x3dbl_3a", 384, (1, 3)), ("branch3x3dbl_3b", 384, (3, 1))]
    return [
        [("branch1x1", 320, 1)],
        [("branch3x3_1", 384, 1), fork],
        [("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3), fork_double],
        [pool, ("branch_pool", 192, 1)],
    ]


_MIXED_B: list[list[Step]] = [
    [("branch3x3", 384, 3)],
    [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
    ["halve"],
]
_MIXED_D: list[list[Step]] = [
    [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)],
    [("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1)),
     ("branch7x7x3_4", 192, 3)],
    ["halve"],
]  # fmt: skip
_POOLS = {
    "average": lambda x: F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False),
    "maximum": lambda x: F.max_pool2d(x, 3, stride=1, padding=1),
    "halve": lambda x: F.max_pool2d(x, 3, stride=2),
}


class ConvNorm(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int | tuple[int, int], stride: int, pad: bool):
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if pad else (0, 0)
        self.conv = nn.Conv2d(in_channels, out_channels, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches side by side, their outputs joined over the channels; where it halves, each branch's last step does.

    Args:
        branches: each a chain of steps.
    """

    def __init__(self, in_channels: int, branches: list[list[Step]]) -> None:
        super().__init__()
        self.branches = branches
        halves = ["halve"] in branches
        self.out_channels = 0
        for branch in branches:
            channels = in_channels
            for i, step in enumerate(branch):
                last = i == len(branch) - 1
                convs = [] if isinstance(step, str) else step if isinstance(step, list) else [step]
                for name, out, kernel in convs:
                    stride = 2 if halves and last else 1
                    self.add_module(name, ConvNorm(channels, out, kernel, stride, pad=stride == 1))
                channels = sum(out for _, out, _ in convs) or channels
            self.out_channels += channels

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for branch in self.branches:
            h = x
            for step in branch:
                if isinstance(step, str):
                    h = _POOLS[step](h)
                else:
                    convs = step if isinstance(step, list) else [step]
                    h = torch.cat([self.get_submodule(name)(h) for name, _, _ in convs], 1)
            outputs.append(h)
        return torch.cat(outputs, 1)


class Inception(nn.Module):
    """Pixels [N, 3, 299, 299] in [-1, 1) -> features [N, 2048]."""

    def __init__(self) -> None:
        super().__init__()
        stem = [("1a_3x3", 32, 3, 2), ("2a_3x3", 32, 3, 1), ("2b_3x3", 64, 3, 1), ("3b_1x1", 80, 1, 1)]
        channels = 3
        for name, out, kernel, stride in [*stem, ("4a_3x3", 192, 3, 1)]:
            self.add_module(f"Conv2d_{name}", ConvNorm(channels, out, kernel, stride, pad=name == "2b_3x3"))
            channels = out
        blocks = {"5b": _mixed_a(32), "5c": _mixed_a(64), "5d": _mixed_a(64), "6a": _MIXED_B}
        blocks |= {"6b": _mixed_c(128), "6c": _mixed_c(160), "6d": _mixed_c(160), "6e": _mixed_c(192)}
        blocks |= {"7a": _MIXED_D, "7b": _mixed_e("average"), "7c": _mixed_e("maximum")}
        for name, branches in blocks.items():
            block = Mixed(channels, branches)
            self.add_module(f"Mixed_{name}", block)
            channels = block.out_channels
        self.fc = nn.Linear(FEATURE_DIM, 1008)  # of the weight file; features are taken before it

    def forward(self, pixels: Tensor) -> Tensor:
        return self.both(pixels)[0]

    def both(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, 2048], and those of sFID [N, 2023]: rows, columns and channels of TensorFlow's `mixed_6/conv`.

        Nash et al. 2021, arXiv:2103.03841; the layer is that of github.com/openai/guided-diffusion.
        """
        x, spatial = pixels, pixels
        for name, layer in self.named_children():
            if name == "fc":
                continue
            if name == "Mixed_6d":
                spatial = layer.get_submodule("branch1x1")(x)[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
            x = layer(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = _POOLS["halve"](x)
        return x.mean((2, 3)), spatial

    def probabilities(self, features: Tensor) -> Tensor:
        """Of the classes [N, 1008], as the inception score takes them: by the classifier without its bias."""
        return F.linear(features, self.fc.weight).softmax(1)


def load_inception(weights: str) -> Inception:
    """The network, frozen.

    Args:
        weights: the weight file, or "" to fetch it once into torch's hub cache.
    Raises:
        UserError: the file is missing, cannot be fetched, or is not this network's.
    """
    network = Inception()
    try:
        if weights:
            state = torch.load(Path(weights), map_location="cpu", weights_only=True)
        else:
            state = torch.hub.load_state_dict_from_url(
                WEIGHTS_URL, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
        network.load_state_dict(state)
    except Exception as error:  # of the disk, the network, or a file of another kind
        raise UserError(
            f"networks.inception {weights or WEIGHTS_URL}: cannot be loaded ({said(error)}); fetch {WEIGHTS_URL} "
            "elsewhere and give the file as networks.inception"
        ) from error
    return network.eval().requires_grad_(False)


def tensorflow_resize(images: Tensor, side: int = SIDE) -> Tensor:
    """Bilinear without antialiasing or half-pixel centres, as TensorFlow 1 and hence the first FID code resized.

    Args:
        images: float [N, 3, H, W].
    Returns:
        float [N, 3, side, side].
    """
    for dim in (2, 3):
        size = images.shape[dim]
        at = torch.arange(side, dtype=torch.float64) * size / side
        low = at.floor().long()
        high = (low + 1).clamp_max(size - 1)
        shape = [1, 1, 1, 1]
        shape[dim] = side
        share = (at - low).to(images).view(shape)
        low, high = low.to(images.device), high.to(images.device)
        images = images.index_select(dim, low) * (1 - share) + images.index_select(dim, high) * share
    return images
