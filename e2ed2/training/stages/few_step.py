"""What the few-step stages share: a pipeline to start from, the few-step sampler, previews and the exported folder."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from e2ed2.data.cache import CachedSet
from e2ed2.models.autoencoder import decode_all
from e2ed2.models.compiled import compile_blocks, why_not_compiled
from e2ed2.models.denoiser import denoiser_of
from e2ed2.models.families import family_of, network_of
from e2ed2.models.families.base import Denoise
from e2ed2.models.few_step_network import FewStepNetwork, copies
from e2ed2.models.folders.pipeline import save_pipeline
from e2ed2.models.lora.adapter import lora_copies, merged
from e2ed2.models.lora.save import check_names, save_adapter
from e2ed2.models.memory.frozen import freeze
from e2ed2.models.memory.needs import check_memory
from e2ed2.models.memory.recompute import Recomputed, recompute_blocks
from e2ed2.models.prompt_embeds import PromptEmbeds
from e2ed2.models.scheduler import (
    check_exportable,
    few_step_scheduler,
    prediction_type_of,
    schedule_of,
    solvers_for,
)
from e2ed2.models.text import cached_prompt_embeds, text_encoders
from e2ed2.recipe.config import Config
from e2ed2.system.drawing.sheets import Sheet
from e2ed2.system.errors import UserError
from e2ed2.training.about import about_run
from e2ed2.training.cluster.launch import is_in_shards
from e2ed2.training.latents.lazy import latent_set, short_caption
from e2ed2.training.latents.training_set import TrainingSet
from e2ed2.training.stages.adversary import Adversary
from e2ed2.training.stages.start import few_step_call, half_of, keeps_text, load_start, start_folder
from e2ed2.training.stages.teacher_pairs import check_teacher, load_teacher
from e2ed2.trajectory import draw_noises

LORA_FOLDER = "lora"  # of a later step's own adapter lora_2, ...


class FewStepStage:
    """Loads `model.path`, trains its network, exports it with the few-step sampler baked in.

    With `model.architecture` the network is a new one, and `model.path` an autoencoder. In a bf16 run all that is not
    trained is in bf16; in an fp16 run it stays float32, as autoencoders and T5 overflow.
    """

    adversary: Adversary | None = None
    _beside: PromptEmbeds | None = None  # of `_prompts_beside`
    weights: dict[str, float]  # of the terms that are trained with
    began_at: tuple[int, int] | None = None

    def __init__(self, config: Config, data: TrainingSet, device: torch.device, say: Callable[[str], None]):
        self._config, self._device, steps = config, device, config.trajectory.num_inference_steps
        self._prompt = short_caption(data)  # of the card
        self.half = half_of(config)
        prompts = self._prompts_beside()
        with_text = bool(prompts) or not isinstance(data, CachedSet)
        if not is_in_shards():
            check_memory(config, start_folder(config), say)
        self._network_dtype = None if config.model.frozen_weights == "whole" else self.half
        self._pipeline, start = load_start(
            config, data.size, self.half, network_dtype=self._network_dtype, with_text=with_text
        )
        if start.transformers is not None:
            raise UserError(
                f"model.path: {config.model.path} has a network for each of its steps; start from one with a single one"
            )
        self.family, self.inference = family_of(self._pipeline), few_step_call(config, self._pipeline, start)
        solver = self.inference.solver
        self._check_start(solver, say)
        self.prediction_type = prediction_type_of(self._pipeline.scheduler)
        scheduler = few_step_scheduler(solver, self._pipeline.scheduler)
        self._pipeline.register_modules(scheduler=scheduler)
        self.schedule = schedule_of(scheduler)
        for part in (self._pipeline.vae, *text_encoders(self._pipeline).values()):
            part.to(device).requires_grad_(False)  # losses on decoded samples pass through the autoencoder
        if config.trajectory.teacher is not None:  # told before the images are encoded
            check_teacher(config.trajectory.teacher, self._pipeline, data.size)
        self.data = latent_set(data, config, self._pipeline, device, say, start.max_sequence_length)
        if prompts:
            self._beside = cached_prompt_embeds(prompts, self._pipeline, start.max_sequence_length)
        self._pipeline.register_modules(**dict.fromkeys(text_encoders(self._pipeline)))  # all prompts are encoded
        network = network_of(self._pipeline)
        if config.trajectory.parameters.startswith("lora"):
            network.to(self.half or torch.float32)
            freeze(network, config.model.frozen_weights, device)
        self.network: nn.Module = network.to(device)
        self._is_compiled = config.model.compile and self._can_compile(network, say)
        if blocks := config.model.gradient_checkpointing:
            self._recompute(network, blocks)
        if self.half is not None:
            self._pipeline.vae.to(self.half)
            if all(p.ndim <= 4 for p in self._pipeline.vae.parameters()):  # not of films
                self._pipeline.vae.to(memory_format=torch.channels_last)  # faster convolutions
        self._grids = [self.inference.grid(k) for k in range(1, steps + 1)]
        torch.manual_seed(config.train.seed)  # loading draws where nothing was loaded before; adapters go by the seed

    def _can_compile(self, network: nn.Module, say: Callable[[str], None]) -> bool:
        problem = why_not_compiled(network, self._device)
        say(
            "model.compile: the first updates take longer" if problem is None else
            f"note: model.compile is left out, the training goes on without: {problem}"
        )  # fmt: skip
        return problem is None

    def _recompute(self, network: nn.Module, blocks: Recomputed) -> None:
        """Have blocks run again in backward; compiled ones select by themselves what of them does."""
        if self._is_compiled and blocks == "selective":
            return
        if not self.family.recomputes_blocks:
            kind = type(self._pipeline).__name__
            raise UserError(
                f"model.gradient_checkpointing: {str(blocks).lower()}, but a {kind} then computes something else; "
                "set it false, and trajectory.gradient_checkpointing=true"
            )
        recompute_blocks(network, blocks)

    def _prompts_beside(self) -> list[str]:
        """Prompts beside the data's whose embeddings the stage needs."""
        return []

    def _check_start(self, solver: str, say: Callable[[str], None]) -> None:
        """Whether what the recipe asks can be had of the start; nothing is encoded yet."""
        check_exportable(solver)
        known, name = solvers_for(self._pipeline.scheduler), type(self._pipeline).__name__
        if self._config.stage == "lcm" and "lcm" not in known:
            kind = "flow" if known == ["euler"] else "consistency"
            message = f"a {name} is a {kind} model, which stage lcm cannot distil; train it with e2ed2"
            raise UserError(f"model.path: {message}")
        if solver not in known:
            allowed = " or ".join(filter(None, [", ".join(known[:-1]), known[-1]]))
            raise UserError(f"trajectory.solver: {solver}, but a {name} with this scheduler needs {allowed}")
        trajectory, most = self._config.trajectory, self.family.most_steps_of_any_grid
        learned = trajectory.step_counts if trajectory.time_grid != "fixed" else []
        if (longest := max([0, *self.inference.own_grids, *learned])) > most:
            field = "timesteps" if longest in self.inference.own_grids else "time_grid"
            rule = f"of more than {most}" if most else "at all"
            problem = f"a grid of {longest} steps, but the call of a {name} takes none {rule}; leave it out"
            raise UserError(f"trajectory.{field}: {problem}")
        if trajectory.parameters.startswith("lora"):
            check_names(trajectory.lora_names, self._pipeline, self._lora_targets)

    @property
    def _lora_targets(self) -> Sequence[str]:
        return self._config.trajectory.lora_targets or self.family.lora_targets

    def denoiser(self, network: nn.Module) -> Denoise:
        """A network of the start's architecture as a denoiser, guided as the few-step sampler is."""
        return denoiser_of(self._pipeline, network, self.inference.guidance_scale, self.data.uncond)

    def chain(self, networks: Sequence[nn.Module], learned_grids: Iterable[int] = ()) -> FewStepNetwork:
        """The few-step sampler that runs one network at all steps, or several, one at each."""
        pipeline, scale, uncond = self._pipeline, self.inference.guidance_scale, self.data.uncond
        return FewStepNetwork(
            networks,
            lambda network: denoiser_of(pipeline, network, scale, uncond),
            self.schedule,
            self.prediction_type,
            self._grids,
            self.inference.solver,
            learned_grids,
        )

    def parameter_sets(self) -> list[nn.Module]:
        """What is trained, `trajectory.parameters`: one network for all steps, or one for each; compiled if asked."""
        trajectory, steps = self._config.trajectory, len(self._grids)
        if trajectory.parameters.startswith("lora"):
            count = steps if trajectory.has_set_per_step else 1
            networks = lora_copies(self.network, count, trajectory.lora_rank, self._lora_targets)
        else:
            network = self.network.requires_grad_(trajectory.time_grid != "learned_alone")
            networks = copies(network, steps) if trajectory.parameters == "per_step" else [network]
        if self._is_compiled:
            for network in networks:
                compile_blocks(network, self._config.model.gradient_checkpointing == "selective")
        return networks

    def sampler_of(self, network: nn.Module) -> FewStepNetwork:
        """The few-step sampler of the network that this stage trains, by default the denoising network alone."""
        return self.chain([network])

    def teacher(self, path: str | None, guidance_scale: float) -> Denoise:
        """The network of another model folder (None: the start), frozen, with guidance.

        Raises:
            UserError: no such model, one of another family, or with a network for each step.
        """
        if path is None:
            pipeline, _ = load_start(self._config, self.inference.height, with_text=False)
        else:
            _, pipeline, _ = load_teacher("consistency.teacher", path, with_text=False)
        if type(pipeline) is not type(self._pipeline):
            kinds = f"{type(pipeline).__name__}, but model.path a {type(self._pipeline).__name__}"
            raise UserError(f"consistency.teacher: {path} is a {kinds}; give one of the same class")
        network = network_of(pipeline).to(self._device).eval().requires_grad_(False)
        return denoiser_of(pipeline, network, guidance_scale, self.data.uncond)

    @torch.no_grad()
    def preview(self, network: nn.Module) -> Sheet:
        """Few-step samples for 16 fixed captions and noises, beside the real images."""
        batch = self.data.preview_batch()
        noises = draw_noises(batch.x0.shape, len(self._grids), torch.Generator().manual_seed(0)).to(batch.x0)
        show = partial(decode_all, self._pipeline.vae)
        with torch.autocast(self._device.type, self.half, enabled=self.half is not None):  # frozen weights are in bf16
            return self.data.preview_sheet(batch, show(self.sampler_of(network)(noises, batch.cond)), show)

    def export(self, network: nn.Module, folder: Path) -> None:
        """The start's folder with the trained network, the few-step scheduler and the exact call; an adapter beside."""
        sampler, inference = self.sampler_of(network), self.inference
        inference = inference.with_grids(inference.own_grids | sampler.rounded_grids())
        config = self._config
        pipeline, _ = load_start(  # anew: what was frozen in full precision, or as large models have it
            config, inference.height, network_dtype=self._network_dtype, with_text=False
        )
        networks = merged([*sampler.transformers], network_of(pipeline))
        pipeline.register_modules(
            **{self.family.network: networks[0], "scheduler": self._pipeline.scheduler}
        )
        text_from = (start_folder(config), config.model.variant) if keeps_text(config) else None
        about = about_run(config, self.weights)
        save_pipeline(pipeline, inference, folder, networks[1:], about, text_from, self._prompt)
        for k, trained in enumerate(sampler.transformers, start=1):
            at = folder / (LORA_FOLDER if k == 1 else f"{LORA_FOLDER}_{k}")
            save_adapter(trained, pipeline, at, config.trajectory.lora_names)
