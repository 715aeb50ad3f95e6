"""What is trained, and how: chosen by model, data and memory, said in a few lines; a recipe like any other."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from e2ed2.finetune.starts import Start
from e2ed2.models.folders.bundled import BUNDLED
from e2ed2.models.memory.counts import device_memory
from e2ed2.models.memory.needs import Needs, fitting, needs, settings
from e2ed2.recipe.load import config_of
from e2ed2.training.precision import has_bf16

BATCH_SIZE = 32  # captions of an update
SHARE = 0.9  # of the device's memory that is counted on
LORA_RANK, LORA_LR, LR = 64, 3e-4, 7.5e-5
FEW_IMAGES = 8
LARGE = 2 * 10**8  # weights from which on an adapter is the usual thing to share
UPDATES = 1000
SHARED = 0.95  # of the images, from which on captions are those of a subject: what has one of its own is then not drawn
HELD = {  # of the weights below an adapter
    "whole": "", "int8": "; its frozen blocks in 8 bits", "nf4": "; its frozen blocks in 4 bits",
    "offloaded": "; its frozen blocks in the machine's memory",
}  # fmt: skip
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
    has, half = SHARE * device_memory(), has_bf16(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    prompts = "classes" if start.has_classes else "emoji" if start.model.path in BUNDLED else "general"

    def recipe(parameters: dict[str, Any], rows: int) -> tuple[dict[str, Any], str]:
        objective, pairs, why = _objective(captions, rows, start.steps)
        train = {
            "max_train_steps": UPDATES, "micro_batch_size": rows, "gradient_accumulation_steps": BATCH_SIZE // rows,
            "lr": LORA_LR if "lora_rank" in parameters else LR, "lr_schedule": "cosine", "weight_decay": 0.0,
            "ema_decay": 0.95, "checkpoint_every": 250, "preview_every": 250, "log_every": 5,
        }  # fmt: skip
        sections = {
            "stage": "e2ed2",
            "run": {"dir": str(run_dir)},
            "model": start.model.model_dump(mode="json", exclude_defaults=True),
            "data": {**data, **pairs, "size": start.side},
            "trajectory": _sampler(start) | parameters,
            "objective": objective | _crop(start) | {"keep": {"weight": 1.0, "prompts": prompts}},
            "train": train,
        }
        return sections, why

    whole = config_of(recipe({}, BATCH_SIZE)[0])
    count = needs(whole, start.folder, half=half).num_trained
    for parameters, rows in _tries(count, asked):
        values, terms = recipe(parameters, rows)
        config = config_of(values)
        if (fit := fitting(config, start.folder, has, half=half)) is not None:
            break
    changed = [*settings(config, start.folder)][-1][1] if fit is None else fit[1]  # else the leanest
    for name, value in changed.items():
        section, field = name.split(".")
        values[section][field] = value
    solver = f" of {start.solver}" if start.solver else ""
    sampled = f"sampler: {'1 to ' if _draws_steps(start) else ''}{start.steps} steps{solver}, from {start.why}"
    kept = f"kept: what the start makes of {prompts} prompts"
    batch = _batch(values, None if fit is None else fit[0], has)
    trained = _trained(parameters, count, asked) + HELD[values["model"].get("frozen_weights", "whole")]
    return Choice(values, [sampled, trained, terms, kept, batch])


def _tries(count: int, asked: Mapping[str, Any]) -> list[tuple[dict[str, Any], int]]:
    """(Fields of `trajectory`, images at a time at the most), the best first: all weights where they are not many.

    One image at a time has terms that compare none, so that an adapter on several comes before it.
    """
    if (given := asked.get("parameters")) is not None:
        rank = {"lora_rank": asked.get("lora_rank", LORA_RANK)} if str(given).startswith("lora") else {}
        return [({"parameters": given, **rank}, rows) for rows in (BATCH_SIZE, 1)]
    adapter = {"parameters": "lora", "lora_rank": LORA_RANK}
    return [*([({}, BATCH_SIZE)] if count < LARGE else []), (adapter, BATCH_SIZE), (adapter, 1)]


def _trained(parameters: dict[str, Any], count: int, asked: Mapping[str, Any]) -> str:
    """What is trained of so many weights, and why."""
    weights = f"{count / 1e6:,.0f}M weights"
    if (given := asked.get("parameters")) is not None:
        return f"trained: trajectory.parameters={given}, as asked, of {weights}"
    if not parameters:
        return f"trained: all {weights}"
    why = f"the model has {weights}{', too many for the memory here' if count < LARGE else ''}"
    return f"trained: a LoRA of rank {LORA_RANK}, since {why}"


def _draws_steps(start: Start) -> bool:
    return start.any_steps and start.steps > 1


def _sampler(start: Start) -> dict[str, Any]:
    """Fields of `trajectory`: the start's own sampler."""
    own = {"solver": start.solver, "guidance_scale": start.guidance_scale, "shift": start.shift}
    sampler: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
    sampler |= {"num_inference_steps": start.steps, "start": "random_step" if start.steps > 1 else "pure_noise"}
    if _draws_steps(start):
        weights = [start.steps / k for k in range(1, start.steps + 1)]
        sampler |= {"random_num_steps": True, "num_steps_weights": weights}
    return sampler


def _batch(values: dict[str, Any], needed: Needs | None, has: float) -> str:
    """How an update is made, and what that takes."""
    rows = values["train"]["micro_batch_size"]
    said = {True: "blocks", "selective": "blocks selectively"}
    parts = ["steps"] if values["trajectory"].get("gradient_checkpointing") else []
    parts += [said[how]] if (how := values["model"].get("gradient_checkpointing")) else []
    recomputed = " and ".join(parts)
    why = f"batch: {BATCH_SIZE} images an update, {rows} at a time"
    if needed is not None:
        why += f", about {needed.peak_memory_bytes / 2**30:.1f} of {has / 2**30:.0f} GiB"
    why += f", {recomputed} recomputed in backward" if recomputed else ""
    if needed is None:
        why += ": it may run out of memory; a smaller objective.crop.size or trajectory.num_backprop_steps=1 takes less"
    return why


def _crop(start: Start) -> dict[str, Any]:
    """Fields of `objective`: of large images losses decode a window."""
    decoded = DECODED // start.cell
    return {} if start.side // start.cell <= decoded else {"crop": {"size": decoded}}


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
