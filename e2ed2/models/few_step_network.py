"""The trained part of a few-step sampler as one module: its forward is the whole unrolled chain (Eq. 7)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from e2ed2.models.denoiser import pixart_denoiser
from e2ed2.models.text import PromptEmbeds
from e2ed2.prediction import PredictionType
from e2ed2.schedule import NoiseSchedule
from e2ed2.time_grid import TimeGrid
from e2ed2.trajectory import unroll


class FewStepNetwork(nn.Module):
    """A transformer, and with `learned_grid` the timesteps it is run at.

    One forward is one whole sample, however many steps it takes, as wrappers that count forwards expect.

    Args:
        grids: int64 [K] for K = 1, 2, ... up to the sampler's own number of steps, which alone is learned.
    """

    def __init__(
        self,
        transformer: nn.Module,
        schedule: NoiseSchedule,
        prediction_type: PredictionType,
        grids: Sequence[Tensor],
        learned_grid: bool = False,
    ):
        super().__init__()
        self.transformer = transformer
        self.time_grid = TimeGrid(grids[-1]) if learned_grid else None
        self._schedule = schedule
        self._prediction_type = prediction_type
        self._grids = list(grids)

    def timesteps(self, num_steps: int, device: torch.device) -> Tensor:
        """The grid of a sampler of `num_steps` steps: int64 [K], or float [K] where it is learned."""
        if self.time_grid is not None and num_steps == len(self._grids):
            return self.time_grid()
        return self._grids[num_steps - 1].to(device)

    def forward(
        self,
        noises: Tensor,
        cond: PromptEmbeds,
        *,
        x0: Tensor | None = None,
        num_steps: int | None = None,
        start: int = 0,
        gradient_checkpointing: bool = False,
    ) -> Tensor:
        """Finished samples, latents [B, C, h, w].

        Args:
            noises: [steps, B, C, h, w], of the start and after each step but the last.
            x0: what a later start is a noised version of, [B, C, h, w].
            num_steps: of the sampler, by default all. start: the step to begin at, 0 for noise itself.
        """
        timesteps = self.timesteps(num_steps or len(self._grids), noises.device)[start:]
        x = noises[0]
        if start > 0:
            assert x0 is not None
            x = self._schedule.add_noise(x0, x, timesteps[:1].expand(len(x)))
        return unroll(
            pixart_denoiser(self.transformer),
            x,
            timesteps,
            cond,
            schedule=self._schedule,
            prediction_type=self._prediction_type,
            noises=noises[1:],
            gradient_checkpointing=gradient_checkpointing,
        )
