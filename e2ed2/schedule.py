"""Noise schedules: x_t = alpha_t x0 + sigma_t noise (Eq. 1, 4), and the time grids of few-step samplers."""

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_ANGLE = 1.57080  # of diffusers' SCMScheduler
SCM_TWO_STEPS = [999, 827]  # angles 1.5708 and 1.3006; diffusers has 1.3


@dataclass(frozen=True)
class NoiseSchedule:
    """Signal and noise levels on the integer grid 0..num_train_timesteps - 1.

    Attributes:
        alphas, sigmas: [T]. Variance preserving: alpha^2 + sigma^2 = 1. Flow: alpha + sigma = 1.
    """

    alphas: Tensor
    sigmas: Tensor

    @property
    def num_train_timesteps(self) -> int:
        return len(self.alphas)

    def levels(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t) of timesteps t (scalar or [B]), to broadcast over `like` [B, ...].

        A timestep of -1 is clean data: alpha 1, sigma 0. Timesteps that are not integers lie on straight lines between
        their neighbours, with a gradient to t: a learned grid.
        """
        one = torch.ones_like(self.alphas[:1])
        alpha = _at(torch.cat([one, self.alphas]).to(t.device), t + 1)
        sigma = _at(torch.cat([0 * one, self.sigmas]).to(t.device), t + 1)
        shape = (-1,) + (1,) * (like.ndim - 1)
        return alpha.reshape(shape).to(like), sigma.reshape(shape).to(like)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t [B, ...] from clean data, noise and timesteps [B] (Eq. 1)."""
        alpha, sigma = self.levels(t, x0)
        return alpha * x0 + sigma * noise


def _at(values: Tensor, place: Tensor) -> Tensor:
    """values [T + 1] at places from 0 to T; below 0 it is the first."""
    if not place.is_floating_point():
        return values[place.clamp(min=0)]
    lower = place.detach().floor().long().clamp(0, len(values) - 2)
    return torch.lerp(values[lower], values[lower + 1], place - lower)


def linear_schedule(
    beta_start: float = 1e-4, beta_end: float = 0.02, num_train_timesteps: int = 1000
) -> NoiseSchedule:
    """Variance preserving with linear betas (DDPM, arXiv:2006.11239; App. C.1 and the PixArt family)."""
    betas = torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float32)
    return variance_preserving(torch.cumprod(1 - betas, 0))


def scaled_linear_schedule(
    beta_start: float = 0.00085, beta_end: float = 0.012, num_train_timesteps: int = 1000
) -> NoiseSchedule:
    """Variance preserving, betas linear in their square root (Stable Diffusion)."""
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float32) ** 2
    return variance_preserving(torch.cumprod(1 - betas, 0))


def variance_preserving(alphas_cumprod: Tensor) -> NoiseSchedule:
    """From the cumulative products [T] that diffusers' schedulers hold."""
    return NoiseSchedule(alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt())


def flow_schedule(num_train_timesteps: int = 1000, shift: float = 1.0) -> NoiseSchedule:
    """Rectified flow (arXiv:2209.03003), alpha = 1 - sigma; index t holds s = (t + 1) / T after the shift.

    A timestep is only the index: a flow network's own time, diffusers' `timestep`, is T * sigmas[t].
    """
    steps = torch.arange(1, num_train_timesteps + 1, dtype=torch.float32)
    return _straight(steps / num_train_timesteps, shift)


def trigflow_schedule(num_train_timesteps: int = 1000) -> NoiseSchedule:
    """TrigFlow (arXiv:2410.11081): alpha = cos, sigma = sin of an angle, at index t of (t + 1) / T of `MAX_ANGLE`.

    Latents are in units in which data have deviation 1: diffusers' SCMScheduler has them times `sigma_data`.
    """
    angles = torch.arange(1, num_train_timesteps + 1, dtype=torch.float32) / num_train_timesteps * MAX_ANGLE
    return NoiseSchedule(angles.cos(), angles.sin())


def flow_euler_schedule(
    num_inference_steps: int, *, num_train_timesteps: int = 1000, shift: float = 1.0
) -> NoiseSchedule:
    """The K levels that diffusers' FlowMatchEulerDiscreteScheduler visits by default, as their own schedule.

    They run evenly from pure noise (index K - 1) down to the least level of `flow_schedule`, and are then
    shifted (the least one for the second time), so that few of them lie on the grid of `flow_schedule`.
    Its other call, `set_timesteps(sigmas=s)` with s = (t + 1) / T, visits index t of `flow_schedule`.

    Returns:
        A schedule of length K; `trailing_timesteps(K, num_train_timesteps=K)` walks all of it.
    Raises:
        ValueError: K outside 1..T.
    """
    _check_steps(num_inference_steps, num_train_timesteps)
    least = flow_schedule(num_train_timesteps, shift).sigmas[0].item()
    return _straight(torch.linspace(1, least, num_inference_steps).flip(0), shift)


def _straight(s: Tensor, shift: float) -> NoiseSchedule:
    """sigma = shift s / (1 + (shift - 1) s), s in (0, 1] (Stable Diffusion 3, arXiv:2403.03206, Eq. 23)."""
    sigmas = shift * s / (1 + (shift - 1) * s)
    return NoiseSchedule(1 - sigmas, sigmas)


def lcm_timesteps(
    num_inference_steps: int, *, original_inference_steps: int = 50, num_train_timesteps: int = 1000
) -> Tensor:
    """The LCM sampler's grid (arXiv:2310.04378): K of the teacher's steps, the noisiest first; int64 [K].

    Raises:
        ValueError: K outside 1..original_inference_steps.
    """
    _check_steps(num_inference_steps, original_inference_steps)
    stride = num_train_timesteps // original_inference_steps
    grid = torch.arange(original_inference_steps, 0, -1) * stride - 1
    spacing = original_inference_steps / num_inference_steps  # rounded, then multiplied, as diffusers does it
    return grid[[int(k * spacing) for k in range(num_inference_steps)]]


def scm_timesteps(num_inference_steps: int) -> Tensor:
    """SANA-Sprint's grid (arXiv:2503.09641): even angles from noise down, of two steps its own; int64 [K].

    Raises:
        ValueError: K outside 1..1000.
    """
    return torch.tensor(SCM_TWO_STEPS) if num_inference_steps == 2 else trailing_timesteps(num_inference_steps)


def trailing_timesteps(num_inference_steps: int, *, num_train_timesteps: int = 1000) -> Tensor:
    """Evenly spaced from T - 1 down (`trailing` in diffusers; arXiv:2305.08891, Table 2); int64 [K].

    Raises:
        ValueError: K outside 1..T.
    """
    _check_steps(num_inference_steps, num_train_timesteps)
    # The stride is rounded as numpy.arange rounds it, so that halves go to the side they take in diffusers.
    stride = num_train_timesteps - (num_train_timesteps - num_train_timesteps / num_inference_steps)
    steps = torch.arange(num_inference_steps, dtype=torch.float64)
    return (num_train_timesteps - steps * stride).round().long() - 1


def _check_steps(num_inference_steps: int, most: int) -> None:
    if not 1 <= num_inference_steps <= most:
        raise ValueError(f"num_inference_steps {num_inference_steps}: must be 1 to {most}, the grid's steps")
