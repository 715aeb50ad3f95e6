"""Stage `lcm`: latent consistency distillation (arXiv:2310.04378), what PixArt-delta is to PixArt-alpha.

Guidance is distilled in: the teacher's step is guided, the student's is not (App. C.1).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from e2ed2.models.families.base import Denoise
from e2ed2.models.prompt_embeds import PromptEmbeds
from e2ed2.prediction import to_x0
from e2ed2.recipe.config import Config
from e2ed2.samplers import boundary_scalings, ddim_step
from e2ed2.training.latents.training_set import TrainingSet
from e2ed2.training.stages.few_step import FewStepStage


class ConsistencyStage(FewStepStage):
    """Distils the start into itself at few steps: its frozen copy is the teacher, the running average the target."""

    def __init__(self, config: Config, data: TrainingSet, device: torch.device, say: Callable[[str], None]):
        super().__init__(config, data, device, say)
        self.weights = {"consistency": 1.0}
        self._settings = config.consistency
        self._teacher = self.teacher(config.consistency.teacher, self._settings.guidance_scale)

    def loss_terms(
        self, network: nn.Module, ema: nn.Module, rows: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """`consistency`: pseudo-Huber distance between the student at t and its average one teacher step earlier."""
        batch = self.data.batch(rows, generator)
        x0, cond = batch.x0, batch.cond
        noise = torch.randn(x0.shape, generator=generator).to(x0)
        stride = self.schedule.num_train_timesteps // self._settings.num_ddim_steps
        index = torch.randint(self._settings.num_ddim_steps, (len(rows),), generator=generator).to(x0.device)
        t = (index + 1) * stride - 1
        t_prev = (t - stride).clamp(min=0)
        x_t = self.schedule.add_noise(x0, noise, t)
        with torch.no_grad():
            x_prev = ddim_step(self.schedule, self._x0(self._teacher, x_t, t, cond), x_t, t, t_prev, noise)
            target = self._consistency(self.denoiser(ema), x_prev, t_prev, cond)
        estimate = self._consistency(self.denoiser(network), x_t, t, cond)
        c = self._settings.huber_c
        return {"consistency": (((estimate - target).square() + c**2).sqrt() - c).mean()}

    def _x0(self, denoise: Denoise, x_t: Tensor, t: Tensor, cond: PromptEmbeds) -> Tensor:
        alpha, sigma = self.schedule.levels(t, x_t)
        return to_x0(denoise(x_t, t, cond).float(), x_t, alpha, sigma, self.prediction_type)

    def _consistency(self, denoise: Denoise, x_t: Tensor, t: Tensor, cond: PromptEmbeds) -> Tensor:
        """The consistency function f(x_t, t): boundary scalings make it the identity at t = 0."""
        c_skip, c_out = boundary_scalings(t, x_t)
        return c_out * self._x0(denoise, x_t, t, cond) + c_skip * x_t
