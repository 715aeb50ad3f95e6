"""What is trained, and how: chosen by model, data and memory, said in a few lines; a recipe like any other."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from e2ed2.finetune.starts import Start
from e2ed2.models.folders.bundled import BUNDLED
from e2ed2.models.memory import count_memory, device_memory
from e2ed2.recipe.objective import CropConfig
from e2ed2.training.precision import has_bf16

BATCH_SIZE, MICRO_BATCHES = 32, (32, 16, 8, 4, 2)  # captions of an update, and at a time
SHARE = 0.9  # of the device's memory that is counted on
LORA_RANK, LORA_LR, LR = 64, 3e-4, 7.5e-5
FEW_IMAGES = 8
LARGE = 2 * 10**8  # weights from which on an adapter is the usual thing to share
UPDATES = 1000
BESIDE = 1.5  # rows that are evaluated for one of the data: with it half a one to stay near the start
SHARED = 0.95  # of the images, from which on captions are those of a subject: what has one of its own is then not drawn
DECODED = 384  # pixels along the side of what losses decode of a large image


@dataclass(frozen=True)
class Captions:
    """What is known of a set's captions before its images are read.

    Attributes:
        images: how many there are; None of a stream or a data set on the hub.
        shared: the share of them whose caption another image has too.
    """

    images: int | None = None
    shared: float = 0.0


def captions_of(captions: Sequence[str]) -> Captions:
    """Of captions, one an image."""
    counts = Counter(captions)
    return Captions(len(captions), sum(counts[caption] > 1 for caption in captions) / max(len(captions), 1))


@dataclass(frozen=True)
class Choice:
    """values: of a recipe, section -> fields. reasons: a line for each thing that was chosen."""

    values: dict[str, Any]
    reasons: list[str]


def choose(
    start: Start,
    data: dict[str, Any],
    captions: Captions,
    run_dir: Path,
    asked: Mapping[str, Any] = MappingProxyType({}),
) -> Choice:
    """A recipe that moves a start to data and keeps its steps.

    Args:
        data: fields of the recipe's `data`, where it lies. asked: those of `trajectory` that the user has set, by which
            rate and batch are chosen too.
    """
    has = SHARE * device_memory()
    parameters, trains = _parameters(start, has, asked)
    crop, share = _crop(start)
    fit = _fit(start, parameters, share, has)
    objective, pairs, terms = _objective(captions, fit.rows, start.steps)
    begins = "random_step" if start.steps > 1 else "pure_noise"
    sampler: dict[str, Any] = {"num_inference_steps": start.steps, "start": begins}
    sampler |= {} if start.solver is None else {"solver": start.solver}
    sampler |= {} if start.guidance_scale is None else {"guidance_scale": start.guidance_scale}
    sampler |= {} if start.shift is None else {"shift": start.shift}
    serves = f"{start.steps}"
    if start.any_steps and start.steps > 1:
        serves = f"1 to {start.steps}"
        weights = [start.steps / k for k in range(1, start.steps + 1)]
        sampler |= {"random_num_steps": True, "num_steps_weights": weights}
    prompts = "classes" if start.has_classes else "emoji" if start.model.path in BUNDLED else "general"
    model = start.model.model_dump(mode="json", exclude_defaults=True)
    lr = LORA_LR if "lora_rank" in parameters else LR
    train = {
        "max_train_steps": UPDATES, "micro_batch_size": fit.rows, "gradient_accumulation_steps": BATCH_SIZE // fit.rows,
        "lr": lr, "lr_schedule": "cosine", "weight_decay": 0.0, "ema_decay": 0.95,
        "checkpoint_every": 250, "preview_every": 250, "log_every": 5,
    }  # fmt: skip
    values = {
        "stage": "e2ed2",
        "run": {"dir": str(run_dir)},
        "model": model | ({"gradient_checkpointing": True} if fit.recomputes_blocks else {}),
        "data": {**data, **pairs, "size": start.side},
        "trajectory": sampler | parameters | ({"gradient_checkpointing": True} if fit.recomputes_steps else {}),
        "objective": objective | crop | {"keep": {"weight": 1.0, "prompts": prompts}},
        "train": train,
    }
    sampled = f"sampler: {serves} steps{f' of {start.solver}' if start.solver else ''}, from {start.why}"
    kept = f"kept: what the start makes of {prompts} prompts"
    return Choice(values, [sampled, trains, terms, kept, fit.why])


def _parameters(start: Start, has: float, asked: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """(Fields of `trajectory`, why): all weights where they fit and are not many, else an adapter; or what is asked."""
    whole = count_memory(start.folder, start.side)
    count, fits = f"{whole.num_trained / 1e6:,.0f}M weights", whole.at(2, start.steps) < has
    if (given := asked.get("parameters")) is not None:
        rank = {"lora_rank": asked.get("lora_rank", LORA_RANK)} if str(given).startswith("lora") else {}
        return {"parameters": given, **rank}, f"trained: trajectory.parameters={given}, as asked, of {count}"
    if whole.num_trained < LARGE and fits:
        return {}, f"trained: all {count}"
    why = f"the model has {count}{'' if fits else ', too many for the memory here'}"
    return {"parameters": "lora", "lora_rank": LORA_RANK}, f"trained: a LoRA of rank {LORA_RANK}, since {why}"


def _crop(start: Start) -> tuple[dict[str, Any], float]:
    """(Fields of `objective`, share of an image that losses decode): a window of large images."""
    cells, decoded = start.side // start.cell, DECODED // start.cell
    if cells <= decoded:
        return {}, 1.0
    return {"crop": {"size": decoded}}, ((decoded + 2 * CropConfig().halo) / cells) ** 2


@dataclass(frozen=True)
class _Fit:
    """Images of a micro-batch, and what is recomputed in backward so that they fit."""

    rows: int
    recomputes_steps: bool
    recomputes_blocks: bool
    why: str


def _fit(start: Start, parameters: dict[str, Any], decoded: float, has: float) -> _Fit:
    """As many images as fit, with as little recomputed as that takes."""
    rank = parameters.get("lora_rank")
    for recomputes_steps, recomputes_blocks in ((False, False), (True, False), (True, True)):
        memory = count_memory(
            start.folder, start.side, rank, half=rank is not None and _has_bf16(), recomputes_blocks=recomputes_blocks
        )
        kept = BESIDE * (1 if recomputes_steps else start.steps)
        if rank is None:  # beside the network its frozen start
            memory = replace(memory, weights=memory.weights + 4 * memory.num_trained)
        fitting = [rows for rows in MICRO_BATCHES if memory.at(rows, kept, decoded) < has]
        if fitting:
            break
    rows = fitting[0] if fitting else 1
    needs = f"about {memory.at(rows, kept, decoded) / 2**30:.1f} of {has / 2**30:.0f} GiB"
    recomputed = " and blocks" if recomputes_blocks else ""
    recomputed = f", steps{recomputed} recomputed in backward" if recomputes_steps else ""
    why = f"batch: {BATCH_SIZE} images an update, {rows} at a time, {needs}{recomputed}"
    if not fitting:
        why += ": it may run out of memory; a smaller objective.crop.size or trajectory.num_backprop_steps=1 takes less"
    return _Fit(rows, recomputes_steps, recomputes_blocks, why)


def _has_bf16() -> bool:
    """Whether a run is in bf16 here, with what it does not train."""
    return has_bf16(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _objective(captions: Captions, rows: int, steps: int) -> tuple[dict[str, Any], dict[str, Any], str]:
    """(Terms, fields of `data`, why); a single row has nothing to be compared with but its image."""
    terms: dict[str, Any] = {name: {"weight": 1.0} for name in ("l2", "lpips")}
    if rows < 2:
        return terms, {}, "terms: L2 and LPIPS, since one image at a time is no set"
    if captions.shared < SHARED:
        return {**terms, "mmd": {"weight": 600.0}}, {}, "terms: L2, LPIPS and MMD, since captions tell images apart"
    if steps == 1:  # of pairs l2 and lpips judge later starts alone
        terms = {}
    rules = {name: {"weight": 1.0} for name in ("patch_energy", "lpips_energy")}
    why = f"terms: energy scores, since {captions.shared:.0%} of the images share their caption with another one"
    return {**terms, **rules}, {"images_per_caption": 2, "plain_caption_fraction": 1.0}, why
