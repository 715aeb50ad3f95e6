"""Complete checkpoints, which a kill, a full disk or a damaged sector cannot spoil.

`checkpoints/step-N/` holds model and EMA (safetensors), optimizer (read with `weights_only=True`), with fp16 the loss
scale, with a GAN term the discriminator and its optimizer, and `state.json`: step, images seen, seed, batch size,
number of items, and the SHA-256 of every file. Randomness and the data position are functions of (seed, rank, step), so
that the step is all there is to restore of them; but for a stream, where every process stands is in `data.json`.

Where the processes hold shards (FSDP), files of shards stand for model, EMA, optimizer and discriminator: see
`cluster/shards.py`.
"""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import nn

from e2ed2.recipe.fields import Count, CountOrZero
from e2ed2.system.errors import UserError
from e2ed2.system.files import atomic_folder, file_sha256, is_endless
from e2ed2.system.readers.json_file import read_json, read_typed
from e2ed2.system.readers.typed import Record, checked
from e2ed2.training.saved import adamw_state, content_of, learned, read_torch
from e2ed2.training.stages.adversary import FILE as ADVERSARY_FILE
from e2ed2.training.stages.adversary import Adversary

STATE_FILE = "state.json"
MODEL_FILE, EMA_FILE, OPTIMIZER_FILE = NEEDED = ("model.safetensors", "ema.safetensors", "optimizer.pt")
SCALER_FILE, DATA_FILE = "scaler.json", "data.json"
FILES = (*NEEDED, SCALER_FILE, ADVERSARY_FILE, DATA_FILE)
SHARD = re.compile(r"shard-\d{5}-model-00001-of-00001\.safetensors")  # as torch.distributed.checkpoint names them
REMEDY = "use another run.dir"

Scale = Annotated[float, Field(gt=0, lt=1e38)]
UpdateCount = Annotated[int, Field(ge=0, lt=2**31)]


class TrainState(Record):
    """Where a run stands; seed, batch size and number of items (0: none read yet) guard against other data order."""

    model_config = ConfigDict(extra="forbid")  # what a later version restores too

    global_step: CountOrZero
    images_seen: CountOrZero
    seed: CountOrZero
    global_batch_size: Count
    num_items: CountOrZero
    num_processes: CountOrZero = 0  # 0: not known


class _StateFile(TrainState):
    sha256: dict[str, str]


class _Scaler(Record):
    scale: Scale
    growth_factor: Scale
    backoff_factor: Scale
    growth_interval: UpdateCount
    growth_tracker: Annotated[UpdateCount, Field(alias="_growth_tracker")]


class _DataStates(Record):
    processes: list[dict[str, Any]]  # what is in them, the stream knows


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
        save_file(_tensors(network), temporary / MODEL_FILE)
        save_file(_tensors(ema), temporary / EMA_FILE)
        with (temporary / OPTIMIZER_FILE).open("wb") as file:
            torch.save(optimizer.state_dict(), file)
        if adversary is not None:
            adversary.save(temporary)
        write_beside(temporary, scaler, data_states)
        digests = {path.name: file_sha256(path) for path in sorted(temporary.iterdir())}
        (temporary / STATE_FILE).write_text(json.dumps({**state.model_dump(), "sha256": digests}, indent=1))
    return final


def write_beside(
    folder: Path, scaler: torch.amp.GradScaler | None, data_states: Sequence[Any]
) -> dict[str, str]:
    """Write what is no tensor; returns its digests by name."""
    contents = {} if scaler is None else {SCALER_FILE: json.dumps(scaler.state_dict())}
    if any(state is not None for state in data_states):
        contents[DATA_FILE] = json.dumps(list(data_states))
    for name, content in contents.items():
        (folder / name).write_text(content)
    return {name: file_sha256(folder / name) for name in contents}


def latest_checkpoint(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest complete checkpoint; `warn` is told of each half-written or damaged one passed over."""
    for path in sorted(folder.glob("step-*.tmp")):
        warn(f"{path}: half-written, ignored")
    for step, path in sorted(numbered(folder).items(), reverse=True):
        problem = _problem(path, step)
        if problem is None:
            return path
        warn(f"{path}: {problem}; step {step} is passed over")
    return None


def read_state(checkpoint: Path) -> TrainState:
    """Where the run stood when `checkpoint` was saved.

    Raises:
        UserError: its file is damaged.
    """
    return TrainState(**_read_state(checkpoint).model_dump(exclude={"sha256"}))


def read_data_state(checkpoint: Path, rank: int, num_processes: int) -> dict[str, Any] | None:
    """What this process's stream needs to go on; None where batches are a function of the step.

    Raises:
        UserError: the run had another number of processes, or its file is damaged.
    """
    path = checkpoint / DATA_FILE
    if not path.exists():
        return None
    values = {"processes": read_json(path, "place in the data", REMEDY)}
    states = checked(_DataStates, values, f"place in the data {path}", REMEDY).processes
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
    _load_weights(checkpoint / MODEL_FILE, network)
    _load_weights(checkpoint / EMA_FILE, ema)
    path = checkpoint / OPTIMIZER_FILE
    with content_of(path, "this optimizer"):
        state = adamw_state(optimizer, read_torch(path))
    optimizer.load_state_dict(state)
    load_scale(checkpoint, scaler)
    if adversary is not None:
        adversary.load(checkpoint)


def load_scale(checkpoint: Path, scaler: torch.amp.GradScaler | None) -> None:
    """Restore the loss scale of an fp16 run.

    Raises:
        UserError: its file is damaged.
    """
    path = checkpoint / SCALER_FILE
    if scaler is not None and path.exists():
        saved = read_typed(path, _Scaler, "loss scale", REMEDY)
        scaler.load_state_dict(saved.model_dump(by_alias=True))


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
    with content_of(path, "this network"):
        weights = load_file(path)
    expected = _tensors(module)
    wrong = [k for k in expected.keys() | weights.keys() if _kind(expected, k) != _kind(weights, k)]
    if wrong:
        name = min(wrong)
        raise UserError(
            f"{path}: checkpoint of another architecture ({name}: {_kind(weights, name)} in the file, "
            f"{_kind(expected, name)} in the model); use another run.dir or the recipe it was made with"
        )
    module.load_state_dict(weights, strict=False)  # one that is shared under another name follows


def _kind(weights: dict[str, torch.Tensor], name: str) -> str:
    if name not in weights:
        return "absent"
    return f"{[*weights[name].shape]} {str(weights[name].dtype).removeprefix('torch.')}"


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in learned(module).items()}


def is_sharded(checkpoint: Path) -> bool:
    """Whether every process wrote a part of it."""
    return any(checkpoint.glob("shard-*.safetensors"))


def shard_file(rank: int) -> str:
    """The name of a process's part."""
    return f"shard-{rank + 1:05}-model-00001-of-00001.safetensors"


def _read_state(checkpoint: Path) -> _StateFile:
    return read_typed(checkpoint / STATE_FILE, _StateFile, "state of a checkpoint", REMEDY)


def _problem(checkpoint: Path, step: int) -> str | None:
    """What is wrong with a checkpoint of that step. Nothing but files of its own is read, each after its digest."""
    try:
        state = _read_state(checkpoint)
        shards = sorted(name for name in state.sha256 if SHARD.fullmatch(name))
        needed = shards or NEEDED
        there = [name for name in (*shards, *FILES) if name in needed or (checkpoint / name).exists()]
        if state.global_step != step or state.sha256.keys() != {*there}:
            return f"{STATE_FILE} is damaged"
        if missing := [name for name in shards if not (checkpoint / name).exists()]:
            return f"{missing[0]} is missing"
        if any(is_endless(checkpoint / name) for name in there):
            return "incomplete"
        wrong = [name for name in there if file_sha256(checkpoint / name) != state.sha256[name]]
    except (OSError, UserError):
        return "incomplete"
    return f"{wrong[0]} is damaged" if wrong else None
