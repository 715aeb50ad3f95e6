"""What an evaluation leaves behind: `evaluation.json`, and beside it what paired differences to another model need."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from e2ed2.emoji.protocols import emoji_protocol
from e2ed2.evaluation.metrics.intervals import Estimate
from e2ed2.system.environment import environment
from e2ed2.system.errors import UserError
from e2ed2.system.files import atomic_file, file_sha256, write_file

EVALUATION_FILE = "evaluation.json"
JACKKNIFE_FILE = "jackknife.safetensors"
_REMEDY = "`e2ed2 evaluate MODEL --out DIR` makes one"
_OF_EVALUATION = "evaluation_sha256"  # in the jackknife's metadata
_FIELDS = ("model", "protocol", "nfe", "num_images", "reference", "metrics")


def keep_result(result: dict[str, Any], metrics: Mapping[str, Estimate], out: Path) -> None:
    """Write `evaluation.json` and each metric with each group of images left out, which is tied to it by its hash."""
    content = (json.dumps(result, indent=1) + "\n").encode()
    tensors = {f"{name}/{i}": part.contiguous() for name, e in metrics.items() for i, part in enumerate(e.without)}
    with atomic_file(out / JACKKNIFE_FILE) as temporary:
        save_file(tensors, temporary, {_OF_EVALUATION: hashlib.sha256(content).hexdigest()})
    write_file(out / EVALUATION_FILE, content)


def read_result(path: Path) -> dict[str, Any]:
    """An `evaluation.json`, or that of a folder.

    Raises:
        UserError: unreadable, or no evaluation.
    """
    path = path / EVALUATION_FILE if path.is_dir() else path
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable evaluation ({error}); {_REMEDY}") from error
    missing = [name for name in _FIELDS if not isinstance(result, dict) or name not in result]
    if missing:
        raise UserError(f"{path}: not an evaluation, `{missing[0]}` is missing; {_REMEDY}")
    return result


def read_jackknife(path: Path) -> dict[str, tuple[Tensor, ...]]:
    """metric -> its jackknife, from beside an `evaluation.json` (or in its folder).

    Empty where none was kept, or where it is of another evaluation.
    """
    evaluation = path / EVALUATION_FILE if path.is_dir() else path
    try:
        with safe_open(evaluation.with_name(JACKKNIFE_FILE), "pt") as file:
            if (file.metadata() or {}).get(_OF_EVALUATION) != file_sha256(evaluation):
                return {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - the file is no mapping
    except (OSError, SafetensorError):
        return {}
    names = dict.fromkeys(key.rpartition("/")[0] for key in tensors)
    return {name: tuple(tensors[f"{name}/{i}"] for i in range(2) if f"{name}/{i}" in tensors) for name in names}


def sampling_environment(dtype: torch.dtype, batch_size: int, num_processes: int) -> dict[str, object]:
    """What pixels and speed depend on beside model, prompts and seed; dtype: of the sampling network."""
    about = {"dtype": str(dtype).removeprefix("torch."), "batch_size": batch_size, "num_processes": num_processes}
    return {**about, **environment()}


def facts_sha256(facts: dict[str, Any]) -> str:
    """The hash of all that must be equal for two figures to be comparable."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def emoji_sha256(result: dict[str, Any]) -> str:
    """The protocol hash of an emoji evaluation, from what even the first ones recorded.

    Prompts and images follow from pinned packages and a fixed draw, so that their number and names stand for them. A
    floor (`nfe` 0) has one image for each prompt that models are asked several times.
    """
    per_prompt = emoji_protocol(result["protocol"]).samples_per_prompt if result["nfe"] else 1
    return facts_sha256(
        {
            "protocol": result["protocol"],
            "num_prompts": result["num_images"] // per_prompt,
            "reference": result["reference"],
            "features_sha256": result["features"]["sha256"],
        }
    )
