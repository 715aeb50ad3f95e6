"""Complete checkpoints, which a kill, a full disk or a damaged sector cannot spoil.

`checkpoints/step-N/` holds model and EMA (safetensors), optimizer (read with `weights_only=True`), with fp16 the loss
scale, with a GAN term the discriminator and its optimizer, and `state.json`: step, images seen, seed, batch size,
number of items, and the SHA-256 of every file. Randomness and the data position are functions of (seed, rank, step), so
that the step is all there is to restore of them; but for a stream, where every process stands is in `data.json`.
"""

import json
import pickle
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from e2ed2.system.errors import UserError
from e2ed2.system.files import atomic_folder, file_sha256
from e2ed2.training.stages.adversary import Adversary

STATE_FILE = "state.json"
SCALER_FILE = "scaler.json"
DATA_FILE = "data.json"


@dataclass(frozen=True)
class TrainState:
    """Where a run stands; seed, batch size and number of items (0: none read yet) guard against other data order."""

    global_step: int
    images_seen: int
    seed: int
    global_batch_size: int
    num_items: int


def save_checkpoint(
    folder: Path,
    state: TrainState,
    network: nn.Module,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
    adversary: Adversary | None = None,
    data_states: Sequence[Any] = (),
) -> Path:
    """Write `folder/step-N`, atomically.

    Args:
        data_states: of a stream, what each process needs to go on with the next batch.
    Raises:
        UserError: the disk is full or refuses; earlier checkpoints are untouched.
    """
    final = folder / f"step-{state.global_step}"
    with atomic_folder(final) as temporary:
        save_file(_tensors(network), temporary / "model.safetensors")
        save_file(_tensors(ema), temporary / "ema.safetensors")
        with (temporary / "optimizer.pt").open("wb") as file:
            torch.save(optimizer.state_dict(), file)
        if scaler is not None:
            (temporary / SCALER_FILE).write_text(json.dumps(scaler.state_dict()))
        if adversary is not None:
            adversary.save(temporary)
        if any(state is not None for state in data_states):
            (temporary / DATA_FILE).write_text(json.dumps(list(data_states)))
        digests = {path.name: file_sha256(path) for path in sorted(temporary.iterdir())}
        (temporary / STATE_FILE).write_text(json.dumps({**asdict(state), "sha256": digests}, indent=1))
    return final


def latest_checkpoint(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest complete checkpoint; `warn` is told of each half-written or damaged one passed over."""
    for path in sorted(folder.glob("step-*.tmp")):
        warn(f"{path}: half-written, ignored")
    for step, path in sorted(numbered(folder).items(), reverse=True):
        problem = _problem(path)
        if problem is None:
            return path
        warn(f"{path}: {problem}; step {step} is passed over")
    return None


def read_state(checkpoint: Path) -> TrainState:
    """Where the run stood when `checkpoint` was saved."""
    values = json.loads((checkpoint / STATE_FILE).read_text())
    del values["sha256"]
    return TrainState(**values)


def read_data_state(checkpoint: Path, rank: int, num_processes: int) -> Any:
    """What this process's stream needs to go on; None where batches are a function of the step.

    Raises:
        UserError: the run had another number of processes.
    """
    try:
        states = json.loads((checkpoint / DATA_FILE).read_text())
    except FileNotFoundError:
        return None
    if len(states) != num_processes:
        raise UserError(
            f"{checkpoint}: saved by {len(states)} processes, which share the stream; resume with as many, not "
            f"{num_processes}"
        )
    return states[rank]


def load_checkpoint(
    checkpoint: Path,
    network: nn.Module,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler | None = None,
    adversary: Adversary | None = None,
) -> None:
    """Restore everything in place.

    Raises:
        UserError: the checkpoint is of another architecture or optimizer.
    """
    _load_weights(checkpoint / "model.safetensors", network)
    _load_weights(checkpoint / "ema.safetensors", ema)
    path = checkpoint / "optimizer.pt"
    try:
        optimizer.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    except (KeyError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"{path}: not the state of this optimizer; use another run.dir") from error
    if scaler is not None and (checkpoint / SCALER_FILE).exists():
        scaler.load_state_dict(json.loads((checkpoint / SCALER_FILE).read_text()))
    if adversary is not None:
        adversary.load(checkpoint)


def prune_checkpoints(folder: Path, global_step: int, keep: int) -> None:
    """Remove half-written checkpoints, and all but the newest `keep` up to the one just saved.

    Later ones can only be damaged, were passed over and will be written again: they must not count.
    """
    for path in folder.glob("step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
    checkpoints = numbered(folder)
    for step in sorted(step for step in checkpoints if step <= global_step)[:-keep]:
        shutil.rmtree(checkpoints[step], ignore_errors=True)


def numbered(folder: Path) -> dict[int, Path]:
    """step -> its checkpoint, complete or damaged."""
    matches = ((re.fullmatch(r"step-(\d+)", path.name), path) for path in folder.glob("step-*"))
    return {int(match[1]): path for match, path in matches if match}


def _load_weights(path: Path, module: nn.Module) -> None:
    weights = load_file(path)
    expected = _tensors(module)
    wrong = [k for k in expected.keys() | weights.keys() if _shape(expected, k) != _shape(weights, k)]
    if wrong:
        name = min(wrong)
        raise UserError(
            f"{path}: checkpoint of another architecture ({name}: {_shape(weights, name)} in the file, "
            f"{_shape(expected, name)} in the model); use another run.dir or the recipe it was made with"
        )
    module.load_state_dict(weights, strict=False)  # one that is shared under another name follows


def _shape(weights: dict[str, torch.Tensor], name: str) -> str:
    return str(list(weights[name].shape)) if name in weights else "absent"


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """What changes in the state dict, tensors that several names share under the first of them alone.

    Frozen weights, such as those below a LoRA, are the start's and come from there again.
    """
    learned = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    once = dict([*learned, *module.named_buffers()])
    return {name: tensor.contiguous() for name, tensor in module.state_dict().items() if name in once}


def _problem(checkpoint: Path) -> str | None:
    try:
        read_state(checkpoint)
        digests = json.loads((checkpoint / STATE_FILE).read_text())["sha256"]
        wrong = [name for name, digest in digests.items() if file_sha256(checkpoint / name) != digest]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "incomplete"
    return f"{wrong[0]} is damaged" if wrong else None
