"""What is trained, and how: chosen by model, data and memory, said in a few lines; a recipe like any other."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2ed2.finetune.starts import Start
from e2ed2.models.memory import Memory, count_memory, device_memory

BATCH_SIZE = 32  # captions of an update
SHARE = 0.9  # of the device's memory that is counted on
LORA_RANK = 64
FEW_IMAGES = 8
LARGE = 2 * 10**8  # weights from which on an adapter is the usual thing to share
UPDATES = 2000
SHARED = 0.5  # of the images, from which on captions are taken to be those of a subject or a style
DECODED_CELLS = 48  # latent cells along the side of what losses decode of a large image


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


def choose(start: Start, data: dict[str, Any], captions: Captions, run_dir: Path) -> Choice:
    """A recipe that moves a start to data and keeps its steps.

    Args:
        data: fields of the recipe's `data`, where it lies.
    """
    objective, pairs, terms = _objective(captions, start.steps)
    trained, memory, trains = _parameters(start)
    rows, fits = _rows(memory, start.steps)
    begins = "random_step" if start.steps > 1 else "pure_noise"
    trajectory: dict[str, Any] = {"num_inference_steps": start.steps, "start": begins, **trained}
    if start.solver is not None:
        trajectory["solver"] = start.solver
    if start.guidance_scale is not None:
        trajectory["guidance_scale"] = start.guidance_scale
    if start.any_steps and start.steps > 1:
        weights = [start.steps / k for k in range(1, start.steps + 1)]
        trajectory |= {"random_num_steps": True, "num_steps_weights": weights}
    serves = f"1 to {start.steps}" if start.any_steps and start.steps > 1 else f"{start.steps}"
    reasons = [
        f"sampler: {serves} steps{f' of {start.solver}' if start.solver else ''}, from {start.why}",
        trains,
        terms,
        fits,
    ]
    model = start.model.model_dump(mode="json", exclude_defaults=True)
    train = {
        "max_train_steps": UPDATES, "micro_batch_size": rows, "gradient_accumulation_steps": BATCH_SIZE // rows,
        "lr": 1e-3 if "parameters" in trained else 3e-4, "lr_schedule": "cosine", "weight_decay": 0.0,
        "ema_decay": 0.95, "checkpoint_every": 250, "preview_every": 250, "log_every": 5,
    }  # fmt: skip
    values = {
        "stage": "e2ed2", "run": {"dir": str(run_dir)}, "model": model, "data": {**data, **pairs, "size": start.side},
        "trajectory": trajectory, "objective": objective, "train": train,
    }  # fmt: skip
    return Choice(values, reasons)


def _objective(captions: Captions, steps: int) -> tuple[dict[str, Any], dict[str, Any], str]:
    """(Terms, fields of `data`, why)."""
    terms: dict[str, Any] = {"l2": {"weight": 1.0}, "lpips": {"weight": 1.0}, "keep": {"weight": 1.0}}
    if captions.shared < SHARED:
        return {**terms, "mmd": {"weight": 300.0}}, {}, "terms: L2, LPIPS and MMD, since captions tell images apart"
    if steps == 1:  # of pairs l2 and lpips judge later starts alone
        terms = {"keep": terms["keep"]}
    rules = {"patch_energy": {"weight": 1.0}, "lpips_energy": {"weight": 1.0}}
    why = f"terms: energy scores, since {captions.shared:.0%} of the images share their caption with another one"
    return {**terms, **rules}, {"images_per_caption": 2, "plain_caption_fraction": 1.0}, why


def _parameters(start: Start) -> tuple[dict[str, Any], Memory, str]:
    """(Fields of `trajectory`, what they take, why): all weights where they fit and are not many, else an adapter."""
    whole = count_memory(start.folder, start.side)
    needs, has = whole.at(1, start.steps, True), SHARE * device_memory()
    if whole.num_trained < LARGE and needs < has:
        return {}, whole, f"trained: all {whole.num_trained / 1e6:,.0f}M weights, which fit"
    adapter = count_memory(start.folder, start.side, LORA_RANK, half=True)
    why = f"the model has {whole.num_trained / 1e6:,.0f}M weights" + ("" if needs < has else ", too many to train here")
    fields = {"parameters": "lora", "lora_rank": LORA_RANK}
    return fields, adapter, f"trained: a LoRA of rank {LORA_RANK} ({adapter.num_trained / 1e6:,.1f}M), since {why}"


def _rows(memory: Memory, steps: int) -> tuple[int, str]:
    """(Images of a micro-batch, why): as many as fit, and the two that terms compare at least."""
    has = SHARE * device_memory()
    rows = next((rows for rows in (32, 16, 8, 4) if memory.at(rows, steps, True) < has), 2)
    gib = memory.at(rows, steps, True) / 2**30
    return rows, f"batch: {BATCH_SIZE} images an update, {rows} at a time: about {gib:.1f} of {has / 2**30:.0f} GiB"
