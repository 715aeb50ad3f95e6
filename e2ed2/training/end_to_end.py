"""Stage `e2ed2`: the whole sampler trained end to end (Eq. 7, Algorithm 1), one loss at the end."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from e2ed2.data.batch import ImageTextSet
from e2ed2.errors import UserError
from e2ed2.models.autoencoder import decode, decode_crop
from e2ed2.models.few_step_network import FewStepNetwork, copies, lora_copies
from e2ed2.models.squeezenet import load_squeezenet
from e2ed2.objectives import reconstruction, scoring
from e2ed2.objectives.perceptual import Maps, feature_distance, lpips, random_views, unit_maps
from e2ed2.objectives.total import Term, evaluate_terms
from e2ed2.training.adversary import Adversary
from e2ed2.training.config import Config, ObjectiveConfig, objective_weights
from e2ed2.training.few_step import FewStepStage
from e2ed2.training.latents import LatentBatch
from e2ed2.trajectory import draw_noises

LatentTerm = Term[Tensor, Tensor]  # samples [m, B, C, h, w], x0 [B, C, h, w]
FeatureTerm = Term[list[Maps], Maps]  # of decoded images: the m samples' feature maps, the data's

LATENT_TERMS: dict[str, Callable[[ObjectiveConfig], LatentTerm]] = {
    "l1": lambda objective: reconstruction.l1,
    "l2": lambda objective: reconstruction.l2,
    "huber": lambda objective: reconstruction.huber,
    "energy": lambda objective: partial(
        scoring.energy_score, distance=scoring.euclidean(objective.energy.beta)
    ),
    "patch_energy": lambda objective: partial(
        scoring.energy_score, distance=scoring.patch_euclidean(objective.patch_energy.beta)
    ),
}
FEATURE_TERMS: dict[str, Callable[[ObjectiveConfig], FeatureTerm]] = {
    "lpips": lambda objective: lpips,
    "lpips_energy": lambda objective: partial(
        scoring.energy_score, distance=feature_distance(objective.lpips_energy.beta)
    ),
}


class EndToEndStage(FewStepStage):
    """Unrolls the few-step sampler from noise, or from a noised image at a random step, and trains through it."""

    def __init__(self, config: Config, data: ImageTextSet, device: torch.device, say: Callable[[str], None]):
        self.weights = objective_weights(config)
        self._intermediate_weight = config.objective.intermediate_weight
        if self._intermediate_weight > 0 and not self.weights.keys() & LATENT_TERMS.keys():
            raise UserError(
                f"objective.intermediate_weight: {self._intermediate_weight} weighs the terms on latents, and none of "
                f"them has a weight; give one to {', '.join(LATENT_TERMS)}"
            )
        super().__init__(config, data, device, say)
        self._latent_terms = {k: LATENT_TERMS[k](config.objective) for k in self.weights if k in LATENT_TERMS}
        self._feature_terms = {k: FEATURE_TERMS[k](config.objective) for k in self.weights if k in FEATURE_TERMS}
        if self._intermediate_weight > 0:
            terms = self._latent_terms
            self.weights |= {f"intermediate_{k}": self._intermediate_weight * self.weights[k] for k in terms}
        self._features = load_squeezenet().to(device) if self._feature_terms else None
        self._judges_pixels = "adversarial" in self.weights and config.objective.adversarial.space == "pixel"
        if "adversarial" in self.weights:
            channels = 3 if self._judges_pixels else self.data.latents.shape[1]
            self.adversary = Adversary(config.objective.adversarial, channels, device, self._real_and_fake)
        self._crop, side = config.objective.crop, self.data.latents.shape[-1]
        if self._crop.size is not None and self._crop.size > side:
            at_most = f"but latents are {side}x{side}: give {side} at most"
            raise UserError(f"objective.crop.size: {self._crop.size}, {at_most}")
        self._trajectory = config.trajectory
        self._num_samples = config.objective.num_samples
        learned = config.trajectory.time_grid != "fixed"
        transformer = self.network.requires_grad_(config.trajectory.time_grid != "learned_alone")
        sets, num_steps = [transformer], len(self._grids)
        if config.trajectory.parameters == "per_step":
            sets = copies(transformer, num_steps)
        elif config.trajectory.parameters == "lora_per_step":
            sets = lora_copies(transformer, num_steps, config.trajectory.lora_rank)
        self.network = FewStepNetwork(sets, self.schedule, self.prediction_type, self._grids, learned).to(device)

    def sampler_of(self, network: nn.Module) -> FewStepNetwork:
        assert isinstance(network, FewStepNetwork)
        return network

    def loss_terms(
        self, network: nn.Module, ema: nn.Module, rows: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Every weighted objective of m samples per caption against the data."""
        batch = self.data.batch(rows, generator)
        *earlier, samples = self._samples(network, batch, generator)
        values = evaluate_terms(self._latent_terms, samples, batch.x0)
        if self._intermediate_weight > 0:
            at_steps = [evaluate_terms(self._latent_terms, estimate, batch.x0) for estimate in earlier]
            for name, value in values.copy().items():  # a chain of one step has none: then 0
                values[f"intermediate_{name}"] = sum((at[name] / len(earlier) for at in at_steps), start=0 * value)
        judged = samples
        if self._features or self._judges_pixels:
            images, pictures = self._pixels(samples, rows, generator)
            judged = images if self._judges_pixels else samples
        if self._features:
            views = random_views(torch.cat([images, pictures[None]]), generator)
            sample_maps = [unit_maps(self._features, view) for view in views[:-1]]
            with torch.no_grad():
                x0_maps = unit_maps(self._features, views[-1])
            values |= evaluate_terms(self._feature_terms, sample_maps, x0_maps)
        if self.adversary:
            values["adversarial"] = self.adversary.adversarial_loss(judged.flatten(0, 1))
        return values

    @torch.no_grad()
    def _real_and_fake(self, network: nn.Module, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Data and new samples [m B, C, H, W] for an update of the discriminator, as latents or as images."""
        batch = self.data.batch(rows, generator)
        samples = self._samples(network, batch, generator)[-1]
        real = batch.x0
        if self._judges_pixels:
            samples, real = self._pixels(samples, rows, generator)
        return real.repeat(self._num_samples, 1, 1, 1), samples.flatten(0, 1)

    def _pixels(self, samples: Tensor, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Decoded samples [m, B, 3, H, W], about [-1, 1], and their pictures [B, 3, H, W]: whole, or the same crop."""
        latents, pictures = samples.flatten(0, 1), self.data.images(rows)
        if self._crop.size is None:
            images = decode(self._pipeline.vae, latents)
        else:
            size, room = self._crop.size, latents.shape[-1] - self._crop.size
            top, left = torch.randint(room + 1, (2,), generator=generator).tolist()
            images = decode_crop(self._pipeline.vae, latents, top, left, size, self._crop.halo)
            scale = images.shape[-1] // size
            pictures = pictures[..., top * scale : (top + size) * scale, left * scale : (left + size) * scale]
        return images.float().unflatten(0, samples.shape[:2]), pictures

    def _samples(self, network: nn.Module, batch: LatentBatch, generator: torch.Generator) -> Tensor:
        """m samples of each caption, latents [1, m, B, C, h, w], with their graph.

        With a loss on intermediate states: every step's estimate of x0, [steps, m, B, C, h, w], the sample last.
        """
        x0, m, steps, start = batch.x0, self._num_samples, len(self._grids), 0
        if self._trajectory.random_num_steps:
            steps = 1 + int(torch.randint(steps, (), generator=generator))
        if self._trajectory.start == "random_step":
            start = int(torch.randint(steps, (), generator=generator))
        noises = draw_noises((m, *x0.shape), steps - start, generator).to(x0)
        if start > 0:  # samples of a caption share x_t, without which the scoring rule is not proper
            noises[0] = noises[0, :1].clone()
        samples = network(
            noises.flatten(1, 2),
            batch.cond.repeat(m),
            x0=x0.repeat(m, 1, 1, 1),
            num_steps=steps,
            start=start,
            gradient_checkpointing=self._trajectory.gradient_checkpointing,
            num_backprop_steps=self._trajectory.num_backprop_steps,
            every_step=self._intermediate_weight > 0,
        )
        return samples.float().unflatten(-4, (m, len(x0))).reshape(-1, m, *x0.shape)
