"""The trained part of a few-step sampler as one module: its forward is the whole unrolled chain (Eq. 7)."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from e2ed2.models.families.base import Denoise
from e2ed2.models.prompt_embeds import PromptEmbeds
from e2ed2.prediction import PredictionType
from e2ed2.schedule import NoiseSchedule
from e2ed2.time_grid import TimeGrid
from e2ed2.trajectory import unroll


class FewStepNetwork(nn.Module):
    """A transformer or UNet for all steps, or one for each, and with `learned_grids` the timesteps they are run at.

    One forward is one whole sample, however many steps it takes, as wrappers that count forwards expect. A deep copy,
    such as the running average, shares what is frozen.

    Args:
        transformers: one, or as many as the sampler has steps (App. D.1); then only that sampler is run.
        denoiser: makes one of them a denoiser. A plain function, which a deep copy shares.
        grids: int64 [K] for K = 1, 2, ... up to the sampler's own number of steps.
        learned_grids: the numbers of steps, 2 or more, whose grid is learned. Chains from noise alone teach it: from a
            later start less noise is always better.
    """

    def __init__(
        self,
        transformers: Sequence[nn.Module],
        denoiser: Callable[[nn.Module], Denoise],
        schedule: NoiseSchedule,
        prediction_type: PredictionType,
        grids: Sequence[Tensor],
        solver: str = "lcm",
        learned_grids: Iterable[int] = (),
    ):
        super().__init__()
        self.transformers = nn.ModuleList(transformers)
        self.time_grids = nn.ModuleDict({str(k): TimeGrid(grids[k - 1]) for k in learned_grids})
        self._denoiser = denoiser
        self._schedule = schedule
        self._solver = solver
        self._prediction_type = prediction_type
        self._grids = list(grids)

    def __deepcopy__(self, memo: dict[int, Any]) -> "FewStepNetwork":
        memo |= {id(p): p for p in self.parameters() if not p.requires_grad}
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        clone.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return clone

    @property
    def _no_split_modules(self) -> list[str]:
        """The layers that are shards of their own where accelerate shards; it asks by this name.

        None where networks share what is frozen, which is then one shard with all else.
        """
        names = [name for transformer in self.transformers for name, _ in transformer.named_parameters()]
        has_shared = len(list(self.transformers.parameters())) < len(names)
        return [] if has_shared else list(getattr(self.transformers[0], "_no_split_modules", None) or [])

    def timesteps(self, num_steps: int, device: torch.device) -> Tensor:
        """The grid of a sampler of `num_steps` steps: int64 [K], or float [K] where it is learned."""
        if str(num_steps) in self.time_grids:
            return cast(TimeGrid, self.time_grids[str(num_steps)])()
        return self._grids[num_steps - 1].to(device)

    def rounded_grids(self) -> dict[int, list[int]]:
        """Number of steps -> the learned grid as integers."""
        return {int(k): cast(TimeGrid, grid).rounded() for k, grid in self.time_grids.items()}

    def forward(
        self,
        noises: Tensor,
        cond: PromptEmbeds,
        *,
        x0: Tensor | None = None,
        num_steps: int | None = None,
        start: int = 0,
        gradient_checkpointing: bool = False,
        num_backprop_steps: int | None = None,
        every_step: bool = False,
        timesteps: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Finished samples, latents [B, C, h, w]; with `at` the prediction of one evaluation, of that shape.

        Args:
            noises: [steps, B, C, h, w], of the start and after each step but the last.
            x0: what a later start is a noised version of, [B, C, h, w].
            num_steps: of the sampler, by default all. start: the step to begin at, 0 for noise itself.
            gradient_checkpointing, num_backprop_steps: as in `trajectory.unroll`.
            every_step: return the estimates of x0 after each step, the finished sample last, [steps, B, C, h, w].
            timesteps: to run at instead of its own, [num_steps].
            at: timesteps [B], one of each row: x0 is noised there, and no chain is run.
        """
        if at is not None:
            assert x0 is not None
            return self._denoiser(self.transformers[0])(self._schedule.add_noise(x0, noises[0], at), at, cond)
        num_steps = num_steps or len(self._grids)
        timesteps = (self.timesteps(num_steps, noises.device) if timesteps is None else timesteps)[start:]
        x = noises[0]
        if start > 0:
            assert x0 is not None
            timesteps = timesteps.detach()
            x = self._schedule.add_noise(x0, x, timesteps[:1].expand(len(x)))
        transformers = list(self.transformers) if len(self.transformers) > 1 else [*self.transformers] * num_steps
        x, _, estimates = unroll(
            [self._denoiser(transformer) for transformer in transformers[start:]],
            x,
            timesteps,
            cond,
            schedule=self._schedule,
            prediction_type=self._prediction_type,
            solver=self._solver,
            noises=noises[1:],
            gradient_checkpointing=gradient_checkpointing,
            num_backprop_steps=num_backprop_steps,
            return_intermediates=True,
        )
        return torch.stack([*estimates[:-1], x]) if every_step else x


def copies(transformer: nn.Module, num_steps: int) -> list[nn.Module]:
    """A parameter set for each step, all beginning as the same (App. D.1)."""
    return [transformer, *(copy.deepcopy(transformer) for _ in range(num_steps - 1))]
