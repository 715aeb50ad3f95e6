"""A learned time grid: the sampler's timesteps as parameters, trained end to end through the chain."""

import torch
from torch import Tensor, nn

SCALE = 100.0  # parameters are the gaps' logits over this, so that a network's learning rate moves them too


class TimeGrid(nn.Module):
    """K descending timesteps, the first fixed (pure noise), the rest free between it and 0.

    The gaps between them are a softmax times the whole, so that every value of the parameters is a grid.

    Args:
        timesteps: int64 [K], descending, above 0, to start from.
    """

    def __init__(self, timesteps: Tensor):
        super().__init__()
        ends = torch.cat([timesteps, timesteps.new_tensor([0])]).double()
        self.first = int(timesteps[0])
        gaps = (ends[:-1] - ends[1:]) / self.first
        self.logits = nn.Parameter((gaps.log() / SCALE).float())

    def forward(self) -> Tensor:
        """float [K], from the first down to no less than 0."""
        logits = self.logits + ((SCALE - 1) * self.logits).detach()  # SCALE of them, without its place in the gradient:
        gaps = torch.softmax(logits, 0) * self.first  # AdamW needs none, and clipping would leave the network little
        return (self.first - torch.cat([gaps.new_zeros(1), gaps[:-1].cumsum(0)])).clamp(min=0)

    @torch.no_grad()
    def rounded(self) -> list[int]:
        """The nearest integer grid, strictly descending, none below 1: it may be learned on."""
        steps = self().round().long().tolist()
        for k in range(1, len(steps)):
            steps[k] = max(min(steps[k], steps[k - 1] - 1), len(steps) - k)
        return steps
