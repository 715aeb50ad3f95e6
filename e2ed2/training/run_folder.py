"""A run's folder: claimed by one training, begun or resumed by the same recipe, finished or not."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from e2ed2.recipe.config import Config
from e2ed2.recipe.load import changed_fields
from e2ed2.system.environment import environment
from e2ed2.system.errors import UserError
from e2ed2.system.files import locked, write_file
from e2ed2.training.checkpoint import TrainState, latest_checkpoint, numbered, read_state
from e2ed2.training.validation import stopped_at

EXPORT_FILE = "training.json"  # in the model folder: the step it was written at


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
        return None, TrainState(0, 0, train.seed, global_batch_size, 0)
    elif exported != end_of(config):
        raise UserError(
            f"run.dir {run_dir}: holds a model of step {exported} but no complete checkpoint to go on from; "
            "name another run.dir"
        )
    else:
        state = TrainState(exported, 0, train.seed, global_batch_size, 0)
    recorded = recorded_config(run_dir)
    changes = changed_fields(recorded, config) if recorded else {}
    changes["train.seed"] = (state.seed, train.seed)
    changes["global batch size"] = (state.global_batch_size, global_batch_size)
    for field, (before, now) in changes.items():
        if before != now:
            raise UserError(
                f"{field}: {now}, but {run_dir} was begun with {before}; resuming needs the same value "
                "(to train on with another one: another run.dir)"
            )
    if state.global_step > train.max_train_steps:
        raise UserError(
            f"train.max_train_steps: {train.max_train_steps}, but {run_dir} is already at step {state.global_step}; "
            "give at least as many, or another run.dir"
        )
    return checkpoint, state


def end_of(config: Config) -> int:
    """The step that a run ends at, as far as known: an evaluation may end it earlier."""
    return stopped_at(config) or config.train.max_train_steps


def recorded_config(run_dir: Path) -> dict[str, Any]:
    """The config that a run was begun with, empty for a new one."""
    try:
        recorded = yaml.safe_load((run_dir / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError):  # the user removed or broke it: the state still guards
        return {}
    return recorded if isinstance(recorded, dict) else {}


def write_run_files(config: Config) -> None:
    write_file(config.run.dir / "config.yaml", config.to_yaml().encode())
    write_file(config.run.dir / "environment.json", (json.dumps(environment(), indent=1) + "\n").encode())


def exported_step(model: Path) -> int | None:
    try:
        return json.loads((model / EXPORT_FILE).read_text())["global_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
