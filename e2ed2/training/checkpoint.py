"""Complete checkpoints, written to a temporary name and renamed: a kill at any moment leaves the last one whole.

`checkpoints/step-N/` holds model and EMA (safetensors), optimizer (read with `weights_only=True`) and `state.json`:
step, images seen, seed, and the SHA-256 of every file. Randomness and the data position are functions of
(seed, rank, step), so that the step is all there is to restore.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from e2ed2.errors import UserError

STATE_FILE = "state.json"


@dataclass(frozen=True)
class TrainState:
    """Where a run stands. `micro_batches_per_step` guards against resuming with another data order."""

    global_step: int
    images_seen: int
    seed: int
    global_batch_size: int


def save_checkpoint(
    folder: Path, state: TrainState, network: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer
) -> Path:
    """Write `folder/step-N`, atomically.

    Raises:
        UserError: the disk is full; earlier checkpoints are untouched.
    """
    final = folder / f"step-{state.global_step}"
    with atomic_folder(final) as temporary:
        save_file(_contiguous(network), temporary / "model.safetensors")
        save_file(_contiguous(ema), temporary / "ema.safetensors")
        torch.save(optimizer.state_dict(), temporary / "optimizer.pt")
        digests = {path.name: _digest(path) for path in sorted(temporary.iterdir())}
        (temporary / STATE_FILE).write_text(json.dumps({**asdict(state), "sha256": digests}, indent=1))
    return final


class atomic_folder:  # noqa: N801 - used as a context manager, like a function
    """A temporary folder that becomes `final` when the block ends well and vanishes when it does not."""

    def __init__(self, final: Path):
        self.final = final
        self.temporary = final.with_name(final.name + ".tmp")

    def __enter__(self) -> Path:
        shutil.rmtree(self.temporary, ignore_errors=True)
        try:
            self.temporary.mkdir(parents=True)
        except OSError as error:
            raise self._explain(error) from error
        return self.temporary

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            for path in self.temporary.rglob("*"):
                _sync(path)
            shutil.rmtree(self.final, ignore_errors=True)
            self.temporary.rename(self.final)
            _sync(self.final.parent)
            return
        shutil.rmtree(self.temporary, ignore_errors=True)
        if isinstance(error, OSError) or "No space left" in str(error) or "os error 28" in str(error):
            raise self._explain(error) from error

    def _explain(self, error: BaseException) -> UserError:
        reason = os.strerror(errno.ENOSPC) if "28" in str(error) or "space" in str(error) else str(error)
        return UserError(
            f"{self.final}: could not be saved ({reason}); earlier checkpoints are intact: free space and run again"
        )


def latest_checkpoint(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest complete checkpoint; `warn` is told of each damaged or half-written one that is passed over."""
    for path in folder.glob("step-*.tmp"):
        warn(f"{path}: half-written, ignored")
    numbered = [p for p in folder.glob("step-*") if p.suffix != ".tmp"]
    for path in sorted(numbered, key=lambda p: int(p.name.split("-")[1]), reverse=True):
        problem = _problem(path)
        if problem is None:
            return path
        warn(f"{path}: {problem}, passed over for the newest complete checkpoint")
    return None


def read_state(checkpoint: Path) -> TrainState:
    values = json.loads((checkpoint / STATE_FILE).read_text())
    values.pop("sha256")
    return TrainState(**values)


def load_checkpoint(
    checkpoint: Path, network: nn.Module, ema: nn.Module, optimizer: torch.optim.Optimizer
) -> TrainState:
    """Restore everything in place.

    Raises:
        UserError: the checkpoint is of another architecture.
    """
    _load_weights(checkpoint / "model.safetensors", network)
    _load_weights(checkpoint / "ema.safetensors", ema)
    optimizer.load_state_dict(torch.load(checkpoint / "optimizer.pt", weights_only=True, map_location="cpu"))
    return read_state(checkpoint)


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    paths = [p for p in folder.glob("step-*") if p.suffix != ".tmp"]
    for path in sorted(paths, key=lambda p: int(p.name.split("-")[1]))[:-keep]:
        shutil.rmtree(path)


def _load_weights(path: Path, module: nn.Module) -> None:
    weights = load_file(path)
    expected = module.state_dict()
    wrong = [k for k in expected.keys() | weights.keys() if _shape(expected, k) != _shape(weights, k)]
    if wrong:
        name = sorted(wrong)[0]
        raise UserError(
            f"{path}: checkpoint of another architecture ({name}: {_shape(weights, name)} in the file, "
            f"{_shape(expected, name)} in the model); use another run.dir or the recipe it was made with"
        )
    module.load_state_dict(weights)


def _shape(weights: dict[str, torch.Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None


def _contiguous(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in module.state_dict().items()}


def _problem(checkpoint: Path) -> str | None:
    try:
        digests = json.loads((checkpoint / STATE_FILE).read_text())["sha256"]
        wrong = [name for name, digest in digests.items() if _digest(checkpoint / name) != digest]
    except (OSError, ValueError, KeyError):
        return "incomplete"
    return f"{wrong[0]} is damaged" if wrong else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
