"""What an evaluation leaves behind: `evaluation.json`, and beside it what paired differences to another model need."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from e2ed2.errors import UserError
from e2ed2.evaluation.emoji import emoji_protocol
from e2ed2.evaluation.intervals import Estimate
from e2ed2.files import atomic_file, write_file

EVALUATION_FILE = "evaluation.json"
JACKKNIFE_FILE = "jackknife.safetensors"
_REMEDY = "`e2ed2 evaluate MODEL --out DIR` makes one"
_FIELDS = ("model", "protocol", "nfe", "num_images", "reference", "metrics")


def keep_result(result: dict[str, Any], metrics: Mapping[str, Estimate], out: Path) -> None:
    """Write `evaluation.json` and each metric with each group of images left out."""
    tensors = {f"{name}/{i}": part.contiguous() for name, e in metrics.items() for i, part in enumerate(e.without)}
    with atomic_file(out / JACKKNIFE_FILE) as temporary:
        save_file(tensors, temporary)
    write_file(out / EVALUATION_FILE, (json.dumps(result, indent=1) + "\n").encode())


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
    """metric -> its jackknife, from beside an `evaluation.json` (or in its folder); empty where it was not kept."""
    path = (path if path.is_dir() else path.parent) / JACKKNIFE_FILE
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError):
        return {}
    names = dict.fromkeys(key.rpartition("/")[0] for key in tensors)
    return {name: tuple(tensors[f"{name}/{i}"] for i in range(2) if f"{name}/{i}" in tensors) for name in names}


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
