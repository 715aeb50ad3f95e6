"""A run's folder: claimed by one training, begun or resumed by the same recipe, finished or not."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from e2ed2.recipe.config import Config
from e2ed2.recipe.fields import CountOrZero
from e2ed2.recipe.load import changed_fields
from e2ed2.system.environment import environment
from e2ed2.system.errors import UserError
from e2ed2.system.files import locked, sweep, write_file
from e2ed2.system.readers.json_file import read_typed
from e2ed2.system.readers.typed import MAX_SHOWN, Record, checked
from e2ed2.system.readers.yaml_file import read_yaml
from e2ed2.training.checkpoint import TrainState, latest_checkpoint, numbered, read_state
from e2ed2.training.validation import stopped_at

EXPORT_FILE = "training.json"  # in the model folder: the step it was written at
DATA_FILE = "data_summary.json"  # what was read, and what was left out


class _Export(Record):
    global_step: CountOrZero


class _RecordedTrain(Record):
    mixed_precision: Literal["no", "fp16", "bf16"]


class _Recorded(Record):
    """What is asked of a recorded config by name; everything else in it is only compared."""

    train: _RecordedTrain


@contextmanager
def claimed(run_dir: Path, is_main: bool) -> Iterator[None]:
    """The run folder, made if need be and locked against a second training; a kill releases the lock."""
    if not is_main:
        yield
        return
    lock = ExitStack()
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock.enter_context(locked(run_dir, wait=False))
    except BlockingIOError as error:
        raise UserError(f"run.dir {run_dir}: another training is running there; name another") from error
    except OSError as error:
        raise UserError(
            f"run.dir {run_dir}: not a folder that can be written ({error.strerror}); name another"
        ) from error
    with lock:
        sweep(run_dir)
        yield


def find_start(config: Config, num_processes: int, say: Callable[[str], None]) -> tuple[Path | None, TrainState]:
    """Where to begin: the newest complete checkpoint of this very recipe, or nothing at step 0."""
    train, run_dir = config.train, config.run.dir
    global_batch_size = train.micro_batch_size * train.gradient_accumulation_steps * num_processes
    checkpoint = latest_checkpoint(run_dir / "checkpoints", say)
    exported = exported_step(run_dir / "model")
    if checkpoint is not None:
        state = read_state(checkpoint)
    elif exported is None and numbered(run_dir / "checkpoints"):
        raise UserError(
            f"run.dir {run_dir}: none of its checkpoints can be read, and starting again would replace them; bring one "
            "back, remove the folder, or name another run.dir"
        )
    elif exported is None:
        return None, _state_at(0, config, global_batch_size)
    elif exported != end_of(config):
        raise UserError(
            f"run.dir {run_dir}: holds a model of step {exported} but no complete checkpoint to go on from; "
            "name another run.dir"
        )
    else:
        state = _state_at(exported, config, global_batch_size)
    recorded = recorded_config(run_dir)
    changes = changed_fields(recorded, config) if recorded else {}
    changes["train.seed"] = (state.seed, train.seed)
    if not recorded:  # then nothing says how many micro-batches were meant
        changes["global batch size"] = (state.global_batch_size, global_batch_size)
    for field, (before, now) in changes.items():
        if before != now:
            raise UserError(
                f"{_said(field)}: {_said(now)}, but {run_dir} was begun with {_said(before)}; resuming needs the same "
                "value (to train on with another one: another run.dir)"
            )
    if state.global_step > train.max_train_steps:
        raise UserError(
            f"train.max_train_steps: {train.max_train_steps}, but {run_dir} is already at step {state.global_step}; "
            "give at least as many, or another run.dir"
        )
    return checkpoint, state


def shared_out(config: Config, state: TrainState, num_processes: int) -> Config:
    """The recipe as each of `num_processes` follows it: an update keeps the micro-batches that the run was begun with.

    Raises:
        UserError: they cannot be shared evenly, or a discriminator was trained by another number of processes.
    """
    train, run_dir, before = config.train, config.run.dir, state.num_processes
    num_micro = state.global_batch_size // train.micro_batch_size
    if num_micro % num_processes:
        fit = ", ".join(str(n) for n in range(1, num_micro + 1) if num_micro % n == 0)
        raise UserError(
            f"{num_processes} processes, but {run_dir} was begun with {num_micro} micro-batches an update, which they "
            f"cannot share evenly; run one of {fit}"
        )
    if config.objective.adversarial.weight > 0 and before not in (0, num_processes):
        raise UserError(
            f"{num_processes} processes, but {run_dir} was begun with {before}, and its discriminator learns from a "
            f"micro-batch of each (objective.adversarial); run {before}, or name another run.dir"
        )
    steps = num_micro // num_processes
    return config.model_copy(update={"train": train.model_copy(update={"gradient_accumulation_steps": steps})})


def end_of(config: Config) -> int:
    """The step that a run ends at, as far as known: an evaluation may end it earlier."""
    return stopped_at(config) or config.train.max_train_steps


def recorded_config(run_dir: Path) -> dict[str, Any]:
    """The config that a run was begun with, its precision one of those there are; empty for a new one."""
    path = run_dir / "config.yaml"
    try:
        recorded = read_yaml(path, "config", "recipes/")
        checked(_Recorded, recorded, f"config {path}")
    except UserError:  # the user removed or broke it: the state still guards
        return {}
    return recorded


def write_run_files(config: Config, num_processes: int) -> None:
    write_file(config.run.dir / "config.yaml", config.to_yaml().encode())
    made_with = environment() | {"num_processes": num_processes}
    write_file(config.run.dir / "environment.json", (json.dumps(made_with, indent=1) + "\n").encode())


def write_data_file(run_dir: Path, about: Mapping[str, Any]) -> None:
    """What `about_data` says of the training set."""
    write_file(run_dir / DATA_FILE, (json.dumps(about, indent=1) + "\n").encode())


def exported_step(model: Path) -> int | None:
    try:
        return read_typed(model / EXPORT_FILE, _Export, "model's step", "train it again").global_step
    except UserError:
        return None


def _state_at(step: int, config: Config, global_batch_size: int) -> TrainState:
    seed, size = config.train.seed, global_batch_size
    return TrainState(global_step=step, images_seen=0, seed=seed, global_batch_size=size, num_items=0)


def _said(value: Any) -> str:
    """On one line, whatever was recorded."""
    return " ".join(str(value).split())[:MAX_SHOWN]
