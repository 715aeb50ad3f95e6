"""Stage `e2ed2`: the whole sampler trained end to end (Eq. 7, Algorithm 1), one loss at the end."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from e2ed2.coupling import optimal_transport
from e2ed2.data.batch import ImageTextSet
from e2ed2.models.autoencoder import cell_side, decode, decode_crop, decoder_features, latent_channels
from e2ed2.models.few_step_network import FewStepNetwork
from e2ed2.models.losses.discriminator import Discriminator, FeatureDiscriminator
from e2ed2.models.losses.lpips_network import load_lpips_network
from e2ed2.models.losses.plugin import PlugIn
from e2ed2.objectives import scoring
from e2ed2.objectives.perceptual import Maps, random_views, unit_maps
from e2ed2.recipe.chain_checks import check_transport
from e2ed2.recipe.config import Config, objective_weights
from e2ed2.recipe.objective import SCORING_RULES, ObjectiveConfig, decodes, judges_features
from e2ed2.training.latents.latent_set import LatentBatch, MemoryLatents
from e2ed2.training.latents.training_set import TrainingSet
from e2ed2.training.stages.adversary import Adversary
from e2ed2.training.stages.denoising import denoising_loss
from e2ed2.training.stages.few_step import FewStepStage
from e2ed2.training.stages.keep import Keep, kept_prompts
from e2ed2.training.stages.teacher_pairs import pair_noise, teacher_samples
from e2ed2.training.stages.term_checks import (
    check_denoising,
    check_intermediate,
    check_repulsion,
    check_set,
    check_sides,
)
from e2ed2.training.stages.terms import (
    DECODER_TERMS,
    FEATURE_TERMS,
    LATENT_TERMS,
    SET_TERMS,
    FeatureTerm,
    LatentTerm,
    judge_of,
)
from e2ed2.trajectory import draw_noises

Place = tuple[int, int, int] | None  # top, left and side of a square of latent cells, None for everything


class EndToEndStage(FewStepStage):
    """Unrolls the few-step sampler from noise, or from a noised image at a random step, and trains through it."""

    def __init__(self, config: Config, data: TrainingSet, device: torch.device, say: Callable[[str], None]):
        self.weights = objective_weights(config)
        self._intermediate_weight = config.objective.intermediate_weight
        check_intermediate(config, self.weights)
        check_set(config, self.weights, data)
        self._objective, self._crop = config.objective, config.objective.crop
        self._space = config.objective.adversarial.space if "adversarial" in self.weights else None
        self._features = None
        if judges_features(config.objective, self.weights):  # told first if they cannot be had
            self._features = load_lpips_network(config.objective.perceptual_network).to(device)
        self._plugin = PlugIn(str(config.objective.plugin.function)) if "plugin" in self.weights else None
        super().__init__(config, data, device, say)
        if self.half is not None and isinstance(self._features, nn.Module):
            self._features.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster convolutions
        self._rows_per_caption, n = self.data.images_per_caption, config.data.images_per_caption
        if self._rows_per_caption < n:
            self._go_without_groups(say)
        self._latent_terms: dict[str, LatentTerm] = self._terms(LATENT_TERMS)
        self._feature_terms: dict[str, FeatureTerm] = self._terms(FEATURE_TERMS)
        self._set_terms: dict[str, FeatureTerm] = self._terms(SET_TERMS)
        self._decoder_terms: dict[str, FeatureTerm] = self._terms(DECODER_TERMS)
        if self._intermediate_weight > 0:
            latent = self._latent_terms
            self.weights |= {f"intermediate_{k}": self._intermediate_weight * self.weights[k] for k in latent}
        shortest = min(map(min, config.data.shapes))
        check_sides(config, self.weights, shortest, shortest // cell_side(self._pipeline.vae))
        if self._features and self._space == "feature":
            self.adversary = self._adversary(FeatureDiscriminator(self._features.channels))
        elif self._space is not None:
            channels = 3 if self._space == "pixel" else latent_channels(self._pipeline.vae)
            self.adversary = self._adversary(Discriminator(channels))
        self._trajectory = config.trajectory
        counts, draws_start = config.trajectory.step_counts, config.trajectory.start == "random_step"
        self._starts_differ = len(counts) > 1 or (draws_start and counts[0] > 1)
        learned = [k for k in config.trajectory.step_counts if k > 1 and config.trajectory.time_grid != "fixed"]
        self.network = self.chain(self.parameter_sets(), learned).to(device)
        if self._beside is not None:
            count = config.objective.keep.rows(config.train.micro_batch_size)
            self._keep = Keep(self.network, self._beside, count, config.trajectory.parameters.startswith("lora"))
        if config.trajectory.teacher is not None:
            assert isinstance(data, ImageTextSet) and isinstance(self.data, MemoryLatents)
            self.data.retarget(teacher_samples(config.trajectory.teacher, data.captions, device, say))

    def _go_without_groups(self, say: Callable[[str], None]) -> None:
        """Say that no caption has images enough for class batches; scoring rules are left the samples of each image."""
        n, m = self._config.data.images_per_caption, self._objective.num_samples
        rules = ", ".join(sorted(self.weights.keys() & SCORING_RULES))
        note = f"note: no class batches for data.images_per_caption={n} ({self.data.why_no_groups}); {rules}"
        if m > 1:
            check_transport(self._config, self.weights, rows_per_caption=1)
            check_repulsion(self._config, self.weights, self.inference.solver, rows_per_caption=1)
            say(f"{note} compare the {m} samples of each image with it")
            return
        say(f"{note}, for which one sample is too few, are left out")
        self.weights = {name: weight for name, weight in self.weights.items() if name not in SCORING_RULES}
        check_intermediate(self._config, self.weights)
        if not judges_features(self._objective, self.weights):
            self._features = None

    def _check_start(self, solver: str, say: Callable[[str], None]) -> None:
        super()._check_start(solver, say)
        check_repulsion(self._config, self.weights, solver, self._config.data.images_per_caption)
        check_denoising(self.weights, self.inference)
        if self._plugin is not None:
            height, width = self._config.data.shapes[0]
            if size := self._crop.size:
                height = width = size * cell_side(self._pipeline.vae)
            self._plugin.try_out(height, width, self._device, say)

    def _terms(self, table: Mapping[str, Callable[[ObjectiveConfig], Any]]) -> dict[str, Any]:
        """The weighted ones of `table`; those that are scoring rules judge a class batch caption by caption."""
        terms = {name: table[name](self._objective) for name in self.weights if name in table}
        n = self._rows_per_caption
        rules = terms.keys() & SCORING_RULES if n > 1 else set()
        return {name: scoring.per_caption(term, n) if name in rules else term for name, term in terms.items()}

    def sampler_of(self, network: nn.Module) -> FewStepNetwork:
        assert isinstance(network, FewStepNetwork)
        return network

    def loss_terms(
        self, network: nn.Module, ema: nn.Module, rows: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Every weighted objective of m samples per caption against the data."""
        batch = self.data.batch(rows, generator)
        values: dict[str, Tensor] = {}
        if "denoising" in self.weights:
            values["denoising"] = denoising_loss(
                lambda noise, t: network(noise[None], batch.cond, x0=batch.x0, at=t),
                batch.x0, self.schedule, self.prediction_type, generator,
            )  # fmt: skip
        if self.weights.keys() == {"denoising"}:
            return values
        steps, start = self._draw_start(generator)
        if "keep" in self.weights:
            values["keep"] = self._keep(
                network, batch.x0, steps, generator, gradient_checkpointing=self._trajectory.gradient_checkpointing,
                num_backprop_steps=self._trajectory.num_backprop_steps,
            )  # fmt: skip
        self.began_at = (steps, start) if self._starts_differ else None
        *earlier, samples = self._samples(network, batch, steps, start, generator)
        judge = judge_of(batch, start, self._rows_per_caption)
        values |= judge.latents(self._latent_terms, samples, batch.x0)
        if self._intermediate_weight > 0:
            at_steps = [judge.latents(self._latent_terms, estimate, batch.x0) for estimate in earlier]
            for name in self._latent_terms:  # a chain of one step has none: then 0
                none = 0 * values[name]
                values[f"intermediate_{name}"] = sum((at[name] / len(earlier) for at in at_steps), start=none)
        if self._decoder_terms:
            values |= judge.maps(self._decoder_terms, *self._decoder_maps(samples, batch.x0))
        place = self._place(batch.x0, generator)
        if decodes(self._objective, self.weights):
            images = self._decode(samples, place)
        if self._plugin is not None:
            values["plugin"] = self._plugin(images, self.data.captions(batch.rows, batch.draws))
        if self._features:
            pictures = self._pictures(batch, place)
            *views, view = random_views(torch.cat([images, pictures[None]]), generator, self._rows_per_caption)
            sample_maps = [unit_maps(self._features, samples) for samples in views]
            with torch.no_grad():
                x0_maps = unit_maps(self._features, view)
            values |= judge.maps(self._feature_terms, sample_maps, x0_maps)
            values |= judge.sets(self._set_terms, sample_maps, x0_maps)
        if self.adversary:
            judged = images if self._space == "pixel" else samples
            fake = [judged.flatten(0, 1)]
            if self._space == "feature":
                judged, fake = images, [torch.cat(maps) for maps in zip(*sample_maps, strict=True)]
            values["adversarial"] = self.adversary.adversarial_loss(fake)
            if self._objective.adversarial.buffer_size > 0:
                self.adversary.remember(self._stack(judged, batch.x0, place))
        return values

    def _prompts_beside(self) -> list[str]:
        return kept_prompts(self._config)[0] if "keep" in self.weights else []

    def _decoder_maps(self, samples: Tensor, x0: Tensor) -> tuple[list[Maps], Maps]:
        """The frozen decoder's maps of the m samples and of the data, nothing decoded to pixels (arXiv:2411.04873)."""
        network = partial(decoder_features, self._pipeline.vae)
        with self._vae_precision():
            with torch.no_grad():
                x0_maps = unit_maps(network, x0)
            return [unit_maps(network, sample) for sample in samples], x0_maps

    def _vae_precision(self) -> AbstractContextManager[Any]:
        """No autocast where the autoencoder is kept in float32: in fp16 it overflows."""
        return nullcontext() if self.half is not None else torch.autocast(self._device.type, enabled=False)

    def _adversary(self, network: nn.Module) -> Adversary:
        return Adversary(self._objective.adversarial, network, self._device, self._draw_stack, self._look)

    @torch.no_grad()
    def _draw_stack(self, network: nn.Module, rows: Tensor, generator: torch.Generator) -> Tensor:
        """New samples and their data [m + 1, B, C, H, W], as the discriminator judges them: latents or images."""
        batch = self.data.batch(rows, generator)
        samples = self._samples(network, batch, *self._draw_start(generator), generator)[-1]
        place = self._place(batch.x0, generator)
        return self._stack(samples if self._space == "latent" else self._decode(samples, place), batch.x0, place)

    @torch.no_grad()
    def _stack(self, judged: Tensor, x0: Tensor, place: Place) -> Tensor:
        """Samples and data together; of images the autoencoder's copies, or its blur would be all there is to learn."""
        real = x0[None] if self._space == "latent" else self._decode(x0[None], place)
        return torch.cat([judged.detach(), real])

    def _look(self, stack: Tensor, generator: torch.Generator) -> list[Tensor]:
        """The maps that the discriminator is shown of a stack; of images their features, in new views."""
        if self._features is None or self._space != "feature":
            return [stack.flatten(0, 1)]
        return list(unit_maps(self._features, random_views(stack, generator).flatten(0, 1)))

    def _place(self, x0: Tensor, generator: torch.Generator) -> Place:
        """Where losses on images look."""
        size = self._crop.size
        if size is None:
            return None
        top, left = (int(torch.randint(side - size + 1, (), generator=generator)) for side in x0.shape[-2:])
        return top, left, size

    def _decode(self, latents: Tensor, place: Place) -> Tensor:
        """Images [n, B, 3, H, W], about [-1, 1], of latents [n, B, C, h, w]."""
        flat = latents.flatten(0, 1)
        with self._vae_precision():
            if place is None:
                images = decode(self._pipeline.vae, flat)
            else:
                images = decode_crop(self._pipeline.vae, flat, *place, halo=self._crop.halo)
        return images.float().unflatten(0, latents.shape[:2])

    @torch.no_grad()
    def _pictures(self, batch: LatentBatch, place: Place) -> Tensor:
        """What decoded samples are compared with, [B, 3, H, W]: the images themselves, or the teacher's."""
        if self._trajectory.coupling == "teacher_pairs":
            return self._decode(batch.x0[None], place)[0]
        pictures = self.data.images(batch.rows)
        if place is None:
            return pictures
        top, left, side = (cell_side(self._pipeline.vae) * cells for cells in place)
        return pictures[..., top : top + side, left : left + side]

    def _draw_start(self, generator: torch.Generator) -> tuple[int, int]:
        """(number of steps, step to start at) of a micro-batch."""
        steps, start = len(self._grids), 0
        if self._trajectory.num_steps_weights:
            steps = 1 + int(torch.multinomial(torch.tensor(self._trajectory.num_steps_weights), 1, generator=generator))
        elif self._trajectory.random_num_steps:  # the draws that published rows of equal weights were made with
            steps = 1 + int(torch.randint(steps, (), generator=generator))
        if self._trajectory.start == "random_step":
            start = int(torch.randint(steps, (), generator=generator))
        return steps, start

    def _samples(
        self, network: nn.Module, batch: LatentBatch, steps: int, start: int, generator: torch.Generator
    ) -> Tensor:
        """m samples of each caption, latents [1, m, B, C, h, w], with their graph.

        With a loss on intermediate states: every step's estimate of x0, [steps, m, B, C, h, w], the sample last.
        """
        x0, m = batch.x0, self._objective.num_samples
        noises = draw_noises((m, *x0.shape), steps - start, generator).to(x0)
        if start > 0:  # samples of a caption share x_t, without which the scoring rule is not proper
            noises[0] = noises[0, :1].clone()
        elif self._trajectory.coupling == "optimal_transport":
            noises[0] = torch.stack([self._assigned(noise, batch) for noise in noises[0]])
        elif self._trajectory.coupling == "teacher_pairs":
            noises[0] = pair_noise(batch.rows, x0.shape[1:])
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

    def _assigned(self, noise: Tensor, batch: LatentBatch) -> Tensor:
        """Noise [B, C, h, w] assigned to the data by optimal transport, in class batches within each group."""
        own = len(noise) - batch.num_grouped
        parts = [optimal_transport(noise[:own], batch.x0[:own])] if own else []
        if batch.num_grouped:
            parts.append(optimal_transport(noise[own:], batch.x0[own:], self._rows_per_caption))
        return torch.cat(parts)
