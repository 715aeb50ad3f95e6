"""What an evaluation leaves behind: `evaluation.json`, and beside it what paired differences to another model need."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from e2ed2.evaluation.metrics.intervals import Estimate
from e2ed2.evaluation.metrics.table import metric_of
from e2ed2.recipe.fields import CountOrZero
from e2ed2.system.drawing.figures import central, interval
from e2ed2.system.environment import environment
from e2ed2.system.files import atomic_file, file_sha256, write_file
from e2ed2.system.readers.json_file import read_json, read_typed
from e2ed2.system.readers.typed import Record, checked

EVALUATION_FILE = "evaluation.json"
JACKKNIFE_FILE = "jackknife.safetensors"
REMEDY = "`e2ed2 evaluate MODEL --out DIR` makes one"
_OF_EVALUATION = "evaluation_sha256"  # in the jackknife's metadata


class Interval(Record):
    """A figure and its 95% interval."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    value: float
    low: float
    high: float


class Result(Record):
    """`evaluation.json`: what was measured of what, under what, and all that another measurement needs."""

    model: str
    protocol: str
    protocol_sha256: str
    nfe: CountOrZero
    num_images: CountOrZero
    reference: str
    metrics: dict[str, Interval]
    images_per_second: float | None = None
    num_parameters: CountOrZero | None = None
    seed: CountOrZero | None = None
    model_sha256: str | None = None
    notes: list[str] = []
    command: str = ""
    measured: Literal["here", "shipped"] | None = None
    protocol_facts: dict[str, Any] = {}


def keep_result(result: dict[str, Any], metrics: Mapping[str, Estimate], out: Path) -> None:
    """Write `evaluation.json` and each metric with each group of images left out, which is tied to it by its hash."""
    content = (json.dumps(result, indent=1) + "\n").encode()
    tensors = {f"{name}/{i}": part.contiguous() for name, e in metrics.items() for i, part in enumerate(e.without)}
    with atomic_file(out / JACKKNIFE_FILE) as temporary:
        save_file(tensors, temporary, {_OF_EVALUATION: hashlib.sha256(content).hexdigest()})
    write_file(out / EVALUATION_FILE, content)


def read_result(path: Path) -> dict[str, Any]:
    """An `evaluation.json`, or that of a folder, as plain values of the kinds that `Result` says.

    Raises:
        UserError: unreadable, or no evaluation.
    """
    path = path / EVALUATION_FILE if path.is_dir() else path
    return read_typed(path, Result, "evaluation", REMEDY).model_dump(exclude_unset=True)


def read_results(path: Path) -> list[dict[str, Any]]:
    """A file of several evaluations, as `read_result`; none where there is no file.

    Raises:
        UserError: as `read_result`.
    """
    if not path.is_file():
        return []
    rows = read_json(path, "evaluations", REMEDY)
    typed = [checked(Result, row, f"evaluations {path}") for row in (rows if isinstance(rows, list) else [rows])]
    return [row.model_dump() for row in typed]


def read_jackknife(path: Path) -> dict[str, tuple[Tensor, ...]]:
    """metric -> its jackknife, from beside an `evaluation.json` (or in its folder).

    Empty where none was kept, where it is damaged, or where it is of another evaluation.
    """
    evaluation = path / EVALUATION_FILE if path.is_dir() else path
    try:
        with safe_open(evaluation.with_name(JACKKNIFE_FILE), "pt") as file:
            if (file.metadata() or {}).get(_OF_EVALUATION) != file_sha256(evaluation):
                return {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - the file is no mapping
    except (OSError, SafetensorError):
        return {}
    if any(tensor.ndim != 1 or tensor.dtype != torch.float64 for tensor in tensors.values()):
        return {}
    names = dict.fromkeys(key.rpartition("/")[0] for key in tensors)
    return {name: tuple(tensors[f"{name}/{i}"] for i in range(2) if f"{name}/{i}" in tensors) for name in names}


def sampling_environment(dtype: torch.dtype, batch_size: int, num_processes: int) -> dict[str, object]:
    """What pixels and speed depend on beside model, prompts and seed; dtype: of the sampling network."""
    about = {"dtype": str(dtype).removeprefix("torch."), "batch_size": batch_size, "num_processes": num_processes}
    return {**about, **environment()}


def metric_rows(result: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Of each metric its title, value, interval `0.10 to 0.14`, and the way that is better."""
    rows: list[tuple[str, str, str, str]] = []
    for name, estimate in result["metrics"].items():
        metric = metric_of(name)
        better = "" if metric.better == "shown" else metric.better
        rows.append((metric.title, central(estimate), interval(estimate), better))
    return rows


def evaluation_markdown(result: Mapping[str, Any]) -> str:
    """One evaluation as Markdown: what was measured, then a row per metric with its 95% interval."""
    about = f"Protocol `{result['protocol']}`, {result['num_images']:,} images at {result['nfe']} NFE"
    lines = [f"{about}, seed {result.get('seed') or 0}; reference: {result['reference']}.", ""]
    lines += ["| metric | value | 95% interval | better |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in metric_rows(result)]
    return "\n".join([*lines, *(f"\nNote: {note}" for note in result.get("notes", []))]) + "\n"
