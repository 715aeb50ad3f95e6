"""A ResNet-50 of half the width, the second bundled network that measures: of another family than EfficientNet.

Yahoo's open_nsfw (BSD 2-clause, `weights/resnet`): trained on ImageNet, then to tell harmful photographs from others.
It knows edges, materials and shapes as its kind does; no loss has seen it, nor a relative of it.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from e2ed2.evaluation.features.pooled import PooledFeatures, check_weights

WEIGHTS = Path(__file__).parents[2] / "weights" / "resnet" / "resnet.safetensors"
WEIGHTS_SHA256 = "899c46210eb4ae8b13b5c4c21afe919c95c15a476390dc9395fbf1ab2ca2acbb"
MEAN_BGR = (104.0, 117.0, 123.0)
BLOCKS, STEM = (3, 4, 6, 3), 64  # blocks of each stage; channels of the stem
REDUCED, EXPANDED = (32, 64, 128, 256), (128, 256, 512, 1024)  # channels within and after a stage's blocks


class ResNetFeatures(PooledFeatures):
    """Pooled features of a ResNet-50 (He et al. 2016, arXiv:1512.03385) with half the channels, each from 0 on."""

    name = "ResNet-50 of half width, open_nsfw"
    weights_sha256 = WEIGHTS_SHA256
    width = EXPANDED[-1]

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        path = check_weights(WEIGHTS, WEIGHTS_SHA256, "pip install --force-reinstall e2ed2")
        network = ResNet()
        network.load_state_dict({name: weight.float() for name, weight in load_file(path).items()})
        network.eval().requires_grad_(False)
        self._network = network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._mean = torch.tensor(MEAN_BGR, device=self._device).view(3, 1, 1)

    def maps(self, pixels: Tensor) -> Tensor:
        """Feature maps of pixels, as in `PooledFeatures`."""
        return self._network((pixels.flip(1) - self._mean).contiguous(memory_format=torch.channels_last))


class ResNet(nn.Module):
    """The network before its pooling, batch norms folded into the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, STEM, 7, 2, padding=3)
        self.stages, channels = nn.ModuleList(), STEM
        for stage, (count, reduced, expanded) in enumerate(zip(BLOCKS, REDUCED, EXPANDED, strict=True)):
            blocks = [Bottleneck(channels, reduced, expanded, 1 if stage == 0 else 2)]
            blocks += [Bottleneck(expanded, reduced, expanded) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*blocks))
            channels = expanded

    def forward(self, x: Tensor) -> Tensor:
        """BGR pixels [N, 3, 224, 224] less their mean -> maps [N, 1024, 7, 7]."""
        x = F.max_pool2d(F.pad(self.stem(x).relu(), (0, 1, 0, 1)), 3, 2)  # Caffe's: no rows before, one behind
        for stage in self.stages:
            x = stage(x)
        return x


class Bottleneck(nn.Module):
    """1x1 to few channels, with the stride; 3x3; 1x1 to many; and the shortcut, a 1x1 where shapes change."""

    def __init__(self, channels: int, reduced: int, expanded: int, stride: int = 1) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(channels, expanded, 1, stride) if channels != expanded else nn.Identity()
        self.reduce = nn.Conv2d(channels, reduced, 1, stride)
        self.middle = nn.Conv2d(reduced, reduced, 3, padding=1)
        self.expand = nn.Conv2d(reduced, expanded, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, h, w] -> [N, expanded, h / stride, w / stride]."""
        inner = self.expand(self.middle(self.reduce(x).relu()).relu())
        return (self.shortcut(x) + inner).relu()
