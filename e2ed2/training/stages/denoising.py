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
from e2ed2.prediction import training_target
from e2ed2.recipe.config import Config
from e2ed2.system.drawing.sheets import Sheet
from e2ed2.training.latents.lazy import latent_set, short_caption
from e2ed2.training.latents.training_set import TrainingSet
from e2ed2.trajectory import unroll

GUIDANCE_SCALE = 2.0
NUM_INFERENCE_STEPS = 25


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
        batch = self._data.batch(rows, generator)
        noise = torch.randn(batch.x0.shape, generator=generator).to(batch.x0)
        t = torch.randint(self._schedule.num_train_timesteps, (len(rows),), generator=generator).to(batch.x0.device)
        alpha, sigma = self._schedule.levels(t, batch.x0)
        prediction = denoiser_of(self._pipeline, network)(self._schedule.add_noise(batch.x0, noise, t), t, batch.cond)
        target = training_target(batch.x0, noise, alpha, sigma, PREDICTION_TYPE)
        return {"denoising": (prediction.float() - target).square().mean()}

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
