"""The whole chain as a training stage on random latents and prompts, and what it is compared with."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from e2ed2.models.denoiser import denoiser_of
from e2ed2.models.few_step_network import FewStepNetwork
from e2ed2.models.prompt_embeds import PromptEmbeds
from e2ed2.models.scheduler import prediction_type_of, schedule_of
from e2ed2.trajectory import draw_noises


class Chain:
    """From noise to x0, L2 at its end.

    Args:
        network: of the pipeline, or an adapter on it. grids: for K = 1, 2, ... x0: [B, C, h, w]. cond: its prompts.
    """

    adversary = began_at = None
    weights = {"l2": 1.0}

    def __init__(
        self,
        pipeline: Any,
        network: nn.Module,
        grids: Sequence[Tensor],
        x0: Tensor,
        cond: PromptEmbeds,
        *,
        recomputes_steps: bool = False,
        solver: str = "lcm",
        guidance_scale: float = 1.0,
    ):
        self.scheduler, self.x0, self.cond, self.num_steps = pipeline.scheduler, x0, cond, len(grids)
        self.denoise = denoiser_of(pipeline, network, guidance_scale)
        self.network = FewStepNetwork(
            [network],
            lambda network: denoiser_of(pipeline, network, guidance_scale),
            schedule_of(pipeline.scheduler),
            prediction_type_of(pipeline.scheduler),
            grids,
            solver,
        )
        self._recomputes_steps = recomputes_steps

    def noises(self, generator: torch.Generator) -> Tensor:
        return draw_noises(self.x0.shape, self.num_steps, generator).to(self.x0)

    def loss_terms(self, network: nn.Module, ema: Any, rows: Any, generator: torch.Generator) -> dict[str, Tensor]:
        samples = network(self.noises(generator), self.cond, gradient_checkpointing=self._recomputes_steps)
        return {"l2": (samples.float() - self.x0).square().mean()}


def unrolled(stage: Chain, network: nn.Module, accelerator: Accelerator) -> None:
    """The chain and its gradient.

    Args:
        network: the stage's, as accelerate wraps it.
    """
    with accelerator.autocast():
        loss = stage.loss_terms(network, None, None, torch.Generator().manual_seed(0))["l2"]
    loss.backward()


def bare(stage: Chain, accelerator: Accelerator) -> None:
    """As many times the network forward and backward, with nothing between them."""
    x_t = stage.noises(torch.Generator().manual_seed(0))[0]
    for _ in range(stage.num_steps):
        with accelerator.autocast():
            prediction = stage.denoise(x_t, x_t.new_full((len(x_t),), 500), stage.cond)
        prediction.float().square().mean().backward()


def diffusers_loop(stage: Chain, accelerator: Accelerator) -> None:
    """The loop of a diffusers pipeline with its graph kept: the scheduler's own step, stateful."""
    generator = torch.Generator(stage.x0.device).manual_seed(0)
    latents = stage.noises(torch.Generator().manual_seed(0))[0]
    stage.scheduler.alphas_cumprod = stage.scheduler.alphas_cumprod.to(latents.device)
    stage.scheduler.set_timesteps(stage.num_steps, device=latents.device)
    with accelerator.autocast():
        for t in stage.scheduler.timesteps:
            prediction = stage.denoise(latents, t.expand(len(latents)), stage.cond)
            latents = stage.scheduler.step(prediction, t, latents, generator=generator).prev_sample
    (latents.float() - stage.x0).square().mean().backward()
