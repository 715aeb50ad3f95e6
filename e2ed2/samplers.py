"""Solver steps as pure, stateless, differentiable functions: under checkpointing a step may run twice.

All take the network's x0 estimate and act on [B, C, H, W]; levels broadcast (schedule.NoiseSchedule.levels).
Nothing here clamps, detaches or disables gradients.
"""

import torch
from torch import Tensor

from e2ed2.schedule import NoiseSchedule


def boundary_scalings(
    t: Tensor, like: Tensor, *, sigma_data: float = 0.5, timestep_scaling: float = 10.0
) -> tuple[Tensor, Tensor]:
    """Consistency-model (c_skip, c_out) at integer timesteps t, shaped to broadcast over `like` [B, ...].

    At t = 0 they are (1, 0), so that f(x, 0) = x (arXiv:2303.01469, Eq. 5; constants of the LCM scheduler).
    """
    at_least_single = torch.promote_types(like.dtype, torch.float32)  # in half precision the square overflows
    scaled = t.to(like.device, at_least_single) * timestep_scaling
    c_skip = sigma_data**2 / (scaled**2 + sigma_data**2)
    c_out = scaled / (scaled**2 + sigma_data**2).sqrt()
    shape = (-1,) + (1,) * (like.ndim - 1)
    return c_skip.reshape(shape).to(like), c_out.reshape(shape).to(like)


def lcm_step(
    schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, t: Tensor, t_prev: Tensor, noise: Tensor
) -> Tensor:
    """LCM multistep rule (arXiv:2310.04378, Alg. 3; App. C.1): boundary scaling, then fresh noise for t_prev.

    t_prev = -1 is clean data: the result is then the denoised estimate and `noise` has no weight.
    """
    c_skip, c_out = boundary_scalings(t, x_t)
    denoised = c_out * x0 + c_skip * x_t
    alpha_prev, sigma_prev = schedule.levels(t_prev, x_t)
    return alpha_prev * denoised + sigma_prev * noise


def ddim_step(
    schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, t: Tensor, t_prev: Tensor, noise: Tensor
) -> Tensor:
    """Deterministic DDIM (arXiv:2010.02502, Eq. 12 with sigma_t = 0); `noise` is not used.

    diffusers' DDIMScheduler always steps to t - T // K, which is the next of its timesteps when K divides T.
    """
    alpha, sigma = schedule.levels(t, x_t)
    alpha_prev, sigma_prev = schedule.levels(t_prev, x_t)
    return alpha_prev * x0 + sigma_prev * (x_t - alpha * x0) / sigma


def ancestral_step(
    schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, t: Tensor, t_prev: Tensor, noise: Tensor
) -> Tensor:
    """DDPM's posterior step (arXiv:2006.11239, Eq. 6-7, the smaller fixed variance): a part of the noise is kept, the
    rest is fresh.

    It is DDIM with eta = 1 (arXiv:2010.02502, Eq. 16) and, in units of x / alpha, the ancestral Euler step. t_prev = -1
    is clean data: the result is then x0 and `noise` has no weight.
    """
    alpha, sigma = schedule.levels(t, x_t)
    alpha_prev, sigma_prev = schedule.levels(t_prev, x_t)
    kept = sigma_prev * alpha / (alpha_prev * sigma)
    noise = kept * (x_t - alpha * x0) / sigma + (1 - kept.square()).sqrt() * noise
    return alpha_prev * x0 + sigma_prev * noise


def euler_step(
    schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, t: Tensor, t_prev: Tensor, noise: Tensor
) -> Tensor:
    """Euler's rule on a flow schedule, x + (sigma_prev - sigma) dx/dsigma; `noise` is not used.

    For alpha = 1 - sigma, dx/dsigma = (x_t - x0) / sigma (arXiv:2209.03003); elsewhere the rule is wrong.
    """
    _, sigma = schedule.levels(t, x_t)
    _, sigma_prev = schedule.levels(t_prev, x_t)
    return x_t + (sigma_prev - sigma) * (x_t - x0) / sigma


def scm_step(
    schedule: NoiseSchedule, x0: Tensor, x_t: Tensor, t: Tensor, t_prev: Tensor, noise: Tensor
) -> Tensor:
    """A consistency model's multistep rule (arXiv:2303.01469, Alg. 1; arXiv:2410.11081): fresh noise for t_prev.

    t_prev = -1 is clean data: the result is then x0 and `noise` has no weight.
    """
    alpha_prev, sigma_prev = schedule.levels(t_prev, x_t)
    return alpha_prev * x0 + sigma_prev * noise


SOLVERS = {
    "lcm": lcm_step, "ddim": ddim_step, "ancestral": ancestral_step, "euler": euler_step, "scm": scm_step,
}  # fmt: skip
NOISY_SOLVERS = {"lcm", "ancestral", "scm"}  # draw noise on their way; else a sample is a function of where it starts
