"""What the few-step stages share: a pipeline to start from, the LCM sampler, previews and the exported folder."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from e2ed2.errors import UserError
from e2ed2.models.autoencoder import decode, to_uint8
from e2ed2.models.bundled import resolve_model
from e2ed2.models.few_step_network import FewStepNetwork, merged
from e2ed2.models.new import new_pipeline
from e2ed2.models.pipeline import Inference, load_pipeline, noise_scheduler, save_pipeline, schedule_of
from e2ed2.training.adversary import Adversary
from e2ed2.training.config import Config
from e2ed2.training.lazy_latents import latent_set
from e2ed2.training.training_set import TrainingSet
from e2ed2.trajectory import draw_noises


class FewStepStage:
    """Loads `model.path`, trains its transformer, exports it with the few-step sampler baked in.

    With `model.architecture` the transformer is a new one, and `model.path` an autoencoder.
    """

    adversary: Adversary | None = None

    def __init__(self, config: Config, data: TrainingSet, device: torch.device, say: Callable[[str], None]):
        steps = config.trajectory.num_inference_steps
        if config.model.architecture is not None:  # from scratch
            self._pipeline = new_pipeline(str(config.model.path), config.model.architecture, "lcm")
            start = Inference("lcm", steps, 1.0, height=data.size, width=data.size)
        else:
            self._pipeline, start = load_pipeline(resolve_model(str(config.model.path)))
        if start.transformers is not None:
            raise UserError(
                f"model.path: {config.model.path} has a network for each of its steps; start from one with a single one"
            )
        self._pipeline.to(device)
        self._pipeline.vae.requires_grad_(False)  # losses on decoded samples pass through it
        self._device = device
        self.network: nn.Module = self._pipeline.transformer
        self.prediction_type = self._pipeline.scheduler.config.prediction_type
        self.schedule = schedule_of(self._pipeline)
        self.data = latent_set(data, config.data, self._pipeline, device, say)
        learned = start.timesteps if start.num_inference_steps == steps else None
        self.inference = replace(
            start, solver="lcm", num_inference_steps=steps, guidance_scale=1.0, timesteps=learned
        )
        self._grids = [self.inference.grid(k) for k in range(1, steps + 1)]

    def sampler_of(self, network: nn.Module) -> FewStepNetwork:
        """The few-step sampler of the network that this stage trains, by default the transformer alone."""
        return FewStepNetwork([network], self.schedule, self.prediction_type, self._grids)

    def frozen_copy(self, path: str | None) -> nn.Module:
        """The transformer of another model folder (None: of the start), not trained."""
        pipeline, _ = load_pipeline(resolve_model(path or self._pipeline.name_or_path))
        return pipeline.transformer.to(self._device).eval().requires_grad_(False)

    @torch.no_grad()
    def preview(self, network: nn.Module) -> Tensor:
        """Few-step samples for fixed captions and noise, uint8 [16, 3, H, W]."""
        batch = self.data.preview_batch()
        noises = draw_noises(batch.x0.shape, len(self._grids), torch.Generator().manual_seed(0)).to(batch.x0)
        return to_uint8(decode(self._pipeline.vae, self.sampler_of(network)(noises, batch.cond))).cpu()

    def export(self, network: nn.Module, folder: Path) -> None:
        """A pipeline folder whose scheduler is the LCM rule on this grid."""
        sampler, scheduler = self.sampler_of(network), noise_scheduler("lcm", self.prediction_type)
        transformers = [merged(transformer) for transformer in sampler.transformers]
        self._pipeline.register_modules(transformer=transformers[0], scheduler=scheduler)
        inference = self.inference
        if sampler.time_grid is not None:
            inference = replace(inference, timesteps=sampler.time_grid.rounded())
        save_pipeline(self._pipeline, inference, folder, later_transformers=transformers[1:])
