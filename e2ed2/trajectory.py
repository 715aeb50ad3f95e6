"""The paper's idea (Eq. 7): the whole K-step sampler as one differentiable map from noise to sample."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from e2ed2.prediction import PredictionType, to_x0
from e2ed2.samplers import NOISY_SOLVERS, SOLVERS
from e2ed2.schedule import NoiseSchedule

Denoise = Callable[[Tensor, Tensor, Any], Tensor]


def draw_noises(shape: tuple[int, ...], num_steps: int, generator: torch.Generator) -> Tensor:
    """Noises [num_steps, *shape], drawn before the loop, so that a step run twice sees the same noise.

    One step after the other, as diffusers draws them: torch's numbers depend on how many are drawn at once.
    """
    return torch.stack([torch.randn(shape, generator=generator, device=generator.device) for _ in range(num_steps)])


@overload
def unroll(
    denoise: Denoise | Sequence[Denoise], x: Tensor, timesteps: Tensor, cond: Any, *, schedule: NoiseSchedule,
    prediction_type: PredictionType, solver: str = ..., noises: Tensor | None = ...,
    gradient_checkpointing: bool = ..., num_backprop_steps: int | None = ...,
    return_intermediates: Literal[False] = ...,
) -> Tensor: ...
@overload
def unroll(
    denoise: Denoise | Sequence[Denoise], x: Tensor, timesteps: Tensor, cond: Any, *, schedule: NoiseSchedule,
    prediction_type: PredictionType, solver: str = ..., noises: Tensor | None = ...,
    gradient_checkpointing: bool = ..., num_backprop_steps: int | None = ...,
    return_intermediates: Literal[True],
) -> tuple[Tensor, list[Tensor], list[Tensor]]: ...
def unroll(
    denoise: Denoise | Sequence[Denoise],
    x: Tensor,
    timesteps: Tensor,
    cond: Any,
    *,
    schedule: NoiseSchedule,
    prediction_type: PredictionType,
    solver: str = "lcm",
    noises: Tensor | None = None,
    gradient_checkpointing: bool = False,
    num_backprop_steps: int | None = None,
    return_intermediates: bool = False,
) -> Tensor | tuple[Tensor, list[Tensor], list[Tensor]]:
    """Run a sampler from x [B, C, H, W] at timesteps[0] through every step to clean data, keeping the graph.

    Args:
        denoise: any callable (x_t, t [B], cond) -> prediction of x_t's shape; or K of them, one for each step.
        x: pure noise, or x_t at a later start (then pass the timesteps from there on).
        timesteps: int64 [K], descending, or float where a grid is learned; the step after the last is clean data.
        solver: `lcm`, `ddim`, `ancestral` or `euler`.
        noises: [K - 1 or more, B, C, H, W], added after each step but the last; `lcm` and `ancestral` need them.
        gradient_checkpointing: keep only the states between steps and recompute the steps in backward; the last one is
            kept, as backward asks for it at once.
        num_backprop_steps: steps at the end that keep a graph (default: all). Fewer save memory and time; the gradient
            is then biased: it takes the state they begin at for a constant, whatever the same weights did to reach it.
        return_intermediates: also return the states after each step and each step's estimate of x0.
    Returns:
        x0 [B, C, H, W], not clamped; whether a graph is kept is the caller's choice.
    Raises:
        ValueError: unknown solver, no timesteps, too few noises or of another shape than x, another number of
            denoisers than of timesteps, or num_backprop_steps below 1.
    """
    _check(solver, x, timesteps, noises)
    num_steps = len(timesteps)
    denoisers = list(denoise) if isinstance(denoise, Sequence) else [denoise] * num_steps
    if len(denoisers) != num_steps:
        raise ValueError(f"denoise: {len(denoisers)} denoisers, but {num_steps} steps")
    if num_backprop_steps is not None and num_backprop_steps < 1:
        raise ValueError(f"num_backprop_steps: {num_backprop_steps}, at least 1 is needed")
    first_kept = 0 if num_backprop_steps is None else num_steps - num_backprop_steps

    def step(denoise: Denoise, x_t: Tensor, t: Tensor, t_prev: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = schedule.levels(t, x_t)
        prediction = denoise(x_t, t.expand(len(x_t)), cond)
        x0 = to_x0(prediction, x_t, alpha, sigma, prediction_type)
        return SOLVERS[solver](schedule, x0, x_t, t, t_prev, noise), x0

    end = torch.full_like(timesteps[:1], -1)
    states, estimates = [], []
    for k, (t, t_prev) in enumerate(zip(timesteps, torch.cat([timesteps[1:], end]), strict=True)):
        noise = noises[k] if noises is not None and k < num_steps - 1 else torch.zeros_like(x)
        with torch.no_grad() if k < first_kept else nullcontext():
            if gradient_checkpointing and k < num_steps - 1 and torch.is_grad_enabled():
                x, x0 = checkpoint(step, denoisers[k], x, t, t_prev, noise, use_reentrant=False)
            else:
                x, x0 = step(denoisers[k], x, t, t_prev, noise)
        states.append(x)
        estimates.append(x0)
    return (x, states, estimates) if return_intermediates else x


def _check(solver: str, x: Tensor, timesteps: Tensor, noises: Tensor | None) -> None:
    if solver not in SOLVERS:
        raise ValueError(f"solver '{solver}' is unknown: choose {', '.join(SOLVERS)}")
    if len(timesteps) == 0:
        raise ValueError("timesteps is empty: at least one step is needed")
    num_noises = 0 if noises is None else len(noises)
    if solver in NOISY_SOLVERS and num_noises < len(timesteps) - 1:
        raise ValueError(f"noises: {num_noises}, but {len(timesteps)} steps of {solver} need {len(timesteps) - 1}")
    if noises is not None and noises.shape[1:] != x.shape:  # broadcast, samples would share their noise
        raise ValueError(f"noises {tuple(noises.shape)}: expected [steps, ...] with x's {tuple(x.shape)}")
