"""The critic of Eq. 8: four 4x4 convolutions, of which the first three halve the size (App. C.2)."""

from torch import Tensor, nn


class Discriminator(nn.Module):
    """Images or latents [B, C, H, W], H and W at least 16 -> logits [B, 1, H/8 - 1, W/8 - 1], one per patch."""

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

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
