"""Stage `base`: the denoising loss of ordinary diffusion training (Eq. 3, 6), the start of the chain."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from e2ed2.models.autoencoder import decode_all
from e2ed2.models.denoiser import denoiser_of
from e2ed2.models.folders.inference import Inference
from e2ed2.models.folders.pipeline import save_pipeline
from e2ed2.models.new import PREDICTION_TYPE, new_pipeline
from e2ed2.models.scheduler import schedule_of
from e2ed2.prediction import PredictionType, training_target
from e2ed2.recipe.config import Config
from e2ed2.schedule import NoiseSchedule
from e2ed2.system.drawing.sheets import Sheet
from e2ed2.training.latents.lazy import latent_set, short_caption
from e2ed2.training.latents.training_set import TrainingSet
from e2ed2.trajectory import unroll

GUIDANCE_SCALE = 2.0
NUM_INFERENCE_STEPS = 25


def denoising_loss(
    predict: Callable[[Tensor, Tensor], Tensor],
    x0: Tensor,
    schedule: NoiseSchedule,
    prediction_type: PredictionType,
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error of a network's own prediction at a uniform timestep of each row (Eq. 3, 6), scalar.

    Args:
        predict: (noise [B, C, h, w], t [B]) -> what the network predicts of x0 noised so. x0: [B, C, h, w].
    """
    noise = torch.randn(x0.shape, generator=generator).to(x0)
    t = torch.randint(schedule.num_train_timesteps, (len(x0),), generator=generator).to(x0.device)
    target = training_target(x0, noise, *schedule.levels(t, x0), prediction_type)
    return (predict(noise, t).float() - target).square().mean()


class DenoisingStage:
    """Trains a `PixArtTransformer2DModel` from random weights on the latents of `model.path`'s autoencoder."""

    adversary = began_at = None

    def __init__(self, config: Config, data: TrainingSet, device: torch.device, say: Callable[[str], None]):
        self._pipeline = new_pipeline(str(config.model.path), config.model.architecture, "ddim").to(device)
        self.network: nn.Module = self._pipeline.transformer
        self._size, self._prompt = data.size, short_caption(data)
        self._data = latent_set(data, config, self._pipeline, device, say)
        self._schedule = schedule_of(self._pipeline.scheduler)
        self.weights = {"denoising": 1.0}

    def loss_terms(
        self, network: nn.Module, ema: nn.Module, rows: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """`denoising`: mean squared error of the predicted velocity at a uniform timestep."""
        batch, denoise = self._data.batch(rows, generator), denoiser_of(self._pipeline, network)

        def predict(noise: Tensor, t: Tensor) -> Tensor:
            return denoise(self._schedule.add_noise(batch.x0, noise, t), t, batch.cond)

        return {"denoising": denoising_loss(predict, batch.x0, self._schedule, PREDICTION_TYPE, generator)}

    @torch.no_grad()
    def preview(self, network: nn.Module) -> Sheet:
        """Guided DDIM samples for 16 fixed captions and noises, beside the real images."""
        batch = self._data.preview_batch()
        noise = torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(0)).to(batch.x0)
        x0 = unroll(
            denoiser_of(self._pipeline, network, GUIDANCE_SCALE, self._data.uncond),
            noise,
            self._inference().grid().to(noise.device),
            batch.cond,
            schedule=self._schedule,
            prediction_type=PREDICTION_TYPE,
            solver="ddim",
        )
        show = partial(decode_all, self._pipeline.vae)
        return self._data.preview_sheet(batch, show(x0), show)

    def export(self, network: nn.Module, folder: Path) -> None:
        self._pipeline.register_modules(transformer=network)
        save_pipeline(self._pipeline, self._inference(), folder, prompt=self._prompt)

    def _inference(self) -> Inference:
        return Inference("ddim", NUM_INFERENCE_STEPS, GUIDANCE_SCALE, height=self._size, width=self._size)
