"""What an update of a recipe takes of each device: memory part by part, and arithmetic. Counted, nothing is loaded.

`finetune`, `train` and `plan` ask here. Memory is the most that lives at one time: what stays (weights, moments,
average), and beside it either all that autograd keeps of a micro-batch, or the gradients and what is kept still when
they are there.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from e2ed2.models.families import family_named
from e2ed2.models.folders.index import read_index
from e2ed2.models.memory.counts import Counts, count_model, device_memory
from e2ed2.models.memory.frozen import FORMS
from e2ed2.models.memory.recompute import Recomputed
from e2ed2.recipe.config import Config, objective_weights
from e2ed2.recipe.objective import decodes, judges_features
from e2ed2.system.errors import UserError

ON_ITS_WAY = 1.15  # what is kept, and what backward makes beside it: measured, `benchmarks/plan.py`
SURE = 0.85  # of what is counted a run takes at least: `benchmarks/plan.py`
SMALL = 1 / 40  # of the memory: with smaller files of weights all fits, and counting would only take time
COPY_BYTES = 2  # of a trained weight in bf16: what autocast computes with, kept until the loss is there
DECODER_TERMS = {"latent_lpips", "latent_lpips_energy"}


@dataclass(frozen=True)
class Needs:
    """What an update takes of each device.

    Attributes:
        parts: bytes by part, those that live at the most memory-hungry moment.
        flops: of an update; a multiplication and an addition are two.
        num_trained: weights.
        moved: bytes of offloaded weights that are brought to the device.
    """

    parts: dict[str, int]
    flops: float
    num_trained: int
    moved: float = 0.0

    @property
    def peak_memory_bytes(self) -> int:
        """Without what Python, torch and their libraries take."""
        return sum(self.parts.values())


def needs(config: Config, folder: Path, *, half: bool) -> Needs:
    """Of a recipe whose start's configs lie in a folder.

    Args:
        half: the run computes in bf16.
    Raises:
        UserError: a stage that is not counted, or not a pipeline of a known family.
    """
    if config.stage != "e2ed2" or config.model.architecture is not None:
        raise UserError(f"stage: {config.stage}: only stage e2ed2 of a pretrained start is counted")
    trajectory = config.trajectory
    rank = trajectory.lora_rank if trajectory.parameters.startswith("lora") else None
    crop = config.objective.crop
    window = None if crop.size is None else crop.size + 2 * crop.halo
    counts = _counted(folder, config.data.size, rank, half, window, config.model.gradient_checkpointing)
    sets = trajectory.num_inference_steps if trajectory.has_set_per_step else 1
    parts = _memory(config, counts, sets * counts.num_trained, 2 if half else 4)
    moved = 0.0
    if config.model.frozen_weights == "offloaded":
        runs = _runs(config, counts, 2 + bool(config.model.gradient_checkpointing), rows=1, beside=1)
        moved = runs * config.train.gradient_accumulation_steps * counts.num_in_blocks * (2 if half else 4)
    return Needs(parts, _arithmetic(config, counts, rank is not None), sets * counts.num_trained, moved)


@cache
def _counted(folder: Path, side: int, rank: int | None, half: bool, window: int | None, blocks: Recomputed) -> Counts:
    return count_model(folder, side, rank, half=half, window=window, recomputed=blocks)


def _memory(config: Config, counts: Counts, trained: int, size: int) -> dict[str, int]:
    """Bytes by part; trained: weights; size: of a frozen one in bytes."""
    trajectory, weights = config.trajectory, objective_weights(config)
    rows = config.train.micro_batch_size * config.objective.num_samples
    through = min(max(trajectory.step_counts), trajectory.num_backprop_steps or trajectory.num_inference_steps)
    evaluations = 1 if trajectory.gradient_checkpointing else through
    guided = _per_step(config, counts)
    one = guided * rows * counts.evaluation
    at_work = guided * rows * counts.block
    chain = evaluations * one + (at_work if config.model.gradient_checkpointing else 0)
    frozen = size * (counts.num_frozen + counts.num_decoder)
    if (held := config.model.frozen_weights) != "whole":
        frozen -= int((size - FORMS[held].size) * counts.num_in_blocks)
    if "keep" in weights:
        beside = config.objective.keep.rows(config.train.micro_batch_size)
        chain += evaluations * beside * counts.evaluation
        frozen += 0 if counts.num_frozen else size * trained  # an adapter's start is itself without the adapter
    decoded = rows * _decoded(config, counts)
    if config.train.offload_activations:
        chain, one, decoded = at_work, 0, 0
    gradients = 4 * trained
    kept, late = chain + decoded, chain - (0 if trajectory.gradient_checkpointing else one)
    if kept * ON_ITS_WAY >= gradients + late * ON_ITS_WAY:
        gradients = 0
    else:
        chain, decoded = late, 0
    return {
        "weights": (4 + (COPY_BYTES if size == 2 else 0)) * trained,
        "optimizer": (8 if config.train.optimizer == "adamw" else 2) * trained,
        "average": 4 * trained,
        "gradients": gradients,
        "frozen networks": frozen,
        "chain": int(chain * ON_ITS_WAY),
        "decoding": int(decoded * ON_ITS_WAY),
        "text encoders": size * counts.num_text if config.data.is_stream and config.data.source != "cache" else 0,
    }


def _decoded(config: Config, counts: Counts) -> int:
    """Bytes that autograd keeps of what the loss sees of one sample beyond its latents."""
    weights = objective_weights(config)
    kept = counts.decoder_features if DECODER_TERMS & weights.keys() else 0
    if decodes(config.objective, weights):
        kept += counts.decoding
        kept += counts.features if judges_features(config.objective, weights) else 0
    return kept


def _arithmetic(config: Config, counts: Counts, is_adapter: bool) -> float:
    """FLOP of an update: backward costs twice a forward pass, once where the weights are frozen."""
    weights = objective_weights(config)
    rows = config.train.micro_batch_size * config.objective.num_samples
    each = (2 if is_adapter else 3) + counts.recomputed_flops / counts.evaluation_flops  # of one with gradient
    beside = config.objective.keep.rows(config.train.micro_batch_size)
    total = _runs(config, counts, each, rows, beside) * counts.evaluation_flops
    if "denoising" in weights:
        total += config.train.micro_batch_size * each * counts.evaluation_flops
    if decodes(config.objective, weights):
        total += rows * 2 * counts.decoding_flops
        if judges_features(config.objective, weights):
            total += (2 * rows + config.train.micro_batch_size) * counts.features_flops
    if DECODER_TERMS & weights.keys():
        total += (2 * rows + config.train.micro_batch_size) * counts.decoder_features_flops
    if "adversarial" in weights and config.objective.adversarial.buffer_size == 0:
        rolled = config.objective.adversarial.num_discriminator_updates * rows
        chain = sum(_evaluations(config, config.trajectory.start == "random_step"))
        total += rolled * _per_step(config, counts) * chain * counts.evaluation_flops
    return total * config.train.gradient_accumulation_steps


def _runs(config: Config, counts: Counts, each: float, rows: int, beside: int) -> float:
    """How often a micro-batch of `rows` samples, and `beside` prompts that are kept, runs the network.

    Args:
        each: runs that an evaluation with gradient counts for, backward among them.
    """
    graded, bare = _evaluations(config, config.trajectory.start == "random_step")
    again = int(config.trajectory.gradient_checkpointing)  # all steps but the last
    runs = _per_step(config, counts) * rows * (each * graded + again * (graded - 1) + bare)
    if "keep" in objective_weights(config):  # whose start is run too, without gradient
        graded, bare = _evaluations(config, from_random_step=False)
        runs += beside * ((each + 1) * graded + again * (graded - 1) + 2 * bare)
    return runs


def _per_step(config: Config, counts: Counts) -> int:
    """Evaluations of a step: guided it has two, where the network is not told the scale."""
    return 2 if (config.trajectory.guidance_scale or 1) > 1 and not counts.embeds_guidance else 1


def _evaluations(config: Config, from_random_step: bool) -> tuple[float, float]:
    """(With gradient, without): evaluations of a chain, expected over its length and its start."""
    trajectory = config.trajectory
    through = trajectory.num_backprop_steps or trajectory.num_inference_steps
    counts = trajectory.step_counts
    shares = trajectory.num_steps_weights if trajectory.random_num_steps and trajectory.num_steps_weights else None
    weights = [weight for weight in shares if weight > 0] if shares else [1.0] * len(counts)
    graded = bare = 0.0
    for steps, weight in zip(counts, weights, strict=True):
        lengths = range(1, steps + 1) if from_random_step else [steps]
        for length in lengths:
            share = weight / sum(weights) / len(lengths)
            graded += share * min(length, through)
            bare += share * max(0, length - through)
    return graded, bare


def settings(config: Config, folder: Path) -> Iterator[tuple[Config, dict[str, Any]]]:
    """What a recipe becomes with less and less memory: (config, overrides), the least arithmetic first.

    The update stays the same: what is kept is recomputed, and a micro-batch is made in parts. (Terms that compare sets,
    such as MMD, then compare smaller ones, of two at least; groups of images of one caption stay together.) Below an
    adapter weights are then held in 8 bits, in 4, or offloaded.
    """
    train = config.train
    least = max(config.data.images_per_caption, 2 if "mmd" in objective_weights(config) else 1)
    sizes = [n for n in range(train.micro_batch_size, 0, -1) if train.micro_batch_size % n == 0]
    modes: list[tuple[bool, Recomputed]]  # steps and blocks recomputed
    modes = [(False, False), (False, "selective"), (False, True), (True, False), (True, True)]
    if not family_named(read_index(folder).class_name).recomputes_blocks:
        modes = [(steps, blocks) for steps, blocks in modes if not blocks]
    forms = [config.model.frozen_weights]
    if config.trajectory.parameters.startswith("lora") and forms == ["whole"]:
        forms += ["int8", "nf4", "offloaded"]
    sizes = [size for size in sizes if size >= min(least, train.micro_batch_size)]
    for form, (steps, blocks), size in product(forms, modes, sizes):
        changed: dict[str, Any] = {
            "model.frozen_weights": form,
            "trajectory.gradient_checkpointing": steps, "model.gradient_checkpointing": blocks,
            "train.micro_batch_size": size,
            "train.gradient_accumulation_steps": train.gradient_accumulation_steps * train.micro_batch_size // size,
        }  # fmt: skip
        yield _with(config, changed), {k: v for k, v in changed.items() if v != _field(config, k)}


def fitting(config: Config, folder: Path, has: float, *, half: bool) -> tuple[Needs, dict[str, Any]] | None:
    """(What it takes, overrides): the first of `settings` that takes at most `has` bytes; None where none does."""
    for made, changed in settings(config, folder):
        if (needed := needs(made, folder, half=half)).peak_memory_bytes <= has:
            return needed, changed
    return None


def check_memory(config: Config, folder: Path, say: Callable[[str], None]) -> None:
    """Say what a training of a pretrained start in a folder will take here, where that is much.

    Raises:
        UserError: more than there is; with what to type so that it fits, where anything does.
    """
    if config.stage != "e2ed2" or config.model.architecture is not None:
        return
    has = device_memory()
    if sum(path.stat().st_size for path in folder.glob("*/*.safetensors")) < SMALL * has:
        return
    half = config.train.mixed_precision == "bf16"
    counted = needs(config, folder, half=half).peak_memory_bytes
    told = f"memory: about {counted / 2**30:.1f} GiB of {has / 2**30:.1f}, by count"
    if SURE * counted <= has:
        return say(told)
    found = fitting(config, folder, has, half=half)
    changed = {"trajectory.parameters": "lora"} if found is None else found[1]
    remedy = " ".join(f"{name}={str(value).lower()}" for name, value in changed.items())
    raise UserError(f"{told}: the run would end for lack of it; set {remedy}")


def _with(config: Config, changed: Mapping[str, Any]) -> Config:
    for name, value in changed.items():
        section, field = name.split(".")
        part = getattr(config, section).model_copy(update={field: value})
        config = config.model_copy(update={section: part})
    return config


def _field(config: Config, name: str) -> Any:
    section, field = name.split(".")
    return getattr(getattr(config, section), field)
