"""The critics of Eq. 8: the paper's convolutions on images or latents, and small heads on frozen features."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

MIN_SIDE = 16


class Discriminator(nn.Module):
    """Four 4x4 convolutions, of which the first three halve the size (App. C.2).

    One map of images or latents [B, C, H, W], H and W at least `MIN_SIDE` -> logits [B, 1, H/8 - 1, W/8 - 1], one per
    patch.
    """

    def __init__(self, channels: int, width: int = 64):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 4, padding=1),
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        (x,) = maps
        return [self.layers(x)]


class FeatureDiscriminator(nn.Module):
    """A small head on each map of a frozen feature network, as in Projected GANs (Sauer et al. 2021, arXiv:2111.01007).

    Maps [B, C, h, w] of length 1 over the channels -> logits [B, 1, h, w] for each.
    """

    def __init__(self, channels: Sequence[int], width: int = 64):
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, width, 1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, width, 3, padding=1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, 1, 1),
            )
            for c in channels
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [head(math.sqrt(x.shape[1]) * x) for head, x in zip(self.heads, maps, strict=True)]
