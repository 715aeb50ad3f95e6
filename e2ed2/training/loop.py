"""The training loop, top to bottom: run folder, data, network, resume, update, log, preview, checkpoint, model."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sized
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from e2ed2.data.order import Order
from e2ed2.errors import NonFiniteError, UserError
from e2ed2.files import atomic_folder, locked, write_file
from e2ed2.training.checkpoint import (
    TrainState,
    latest_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    read_data_state,
    read_state,
    save_checkpoint,
)
from e2ed2.training.config import Config
from e2ed2.training.interrupt import DelayedInterrupt
from e2ed2.training.log import MetricsFile, environment, peak_memory_bytes, reset_peak_memory, write_preview
from e2ed2.training.precision import resolve_precision
from e2ed2.training.recipe import changed_fields, check_config
from e2ed2.training.stages import create_stage, load_training_set
from e2ed2.training.step import Stage, Trained, update
from e2ed2.training.training_set import create_order

Say = Callable[[str], None]
Tick = Callable[[int, int, dict[str, float]], None]

PINNED_LOSS, PINNED_STEPS = 1e-3, 50  # a discriminator's loss below this, for so long, is at its least
EXPORT_FILE = "training.json"  # in the model folder: the step it was written at


def train(
    config: Config,
    say: Say = print,
    tick: Tick = lambda step, steps, row: None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Run a stage to `max_train_steps`, or resume it; returns the model folder.

    Args:
        say: told what happens, one line at a time.
        tick: called after each update with (global_step, max_train_steps, metrics row).
        progress: called with (done, total) while data are read for the first time.
    Raises:
        UserError: something the user can mend. NonFiniteError: training diverged.
        KeyboardInterrupt: after Ctrl-C, once the state is saved.
    """
    check_config(config)
    config = resolve_precision(config, _recorded(config.run.dir), PartialState().device)
    accelerator = _create_accelerator(config.train.mixed_precision)
    reset_peak_memory()
    is_main = accelerator.is_main_process
    say = say if is_main else lambda line: None
    model = config.run.dir / "model"
    with _claimed(config.run.dir, is_main):
        checkpoint, state = _start(config, accelerator.num_processes, say)
        if state.global_step == config.train.max_train_steps and _exported_step(model) == state.global_step:
            say(f"{config.run.dir} is finished at step {state.global_step}; its model is {model}")
            return model
        if is_main:
            _write_run_files(config)
        run = _prepare(config, accelerator, checkpoint, state, say, progress)
        state = _train_steps(run, replace(state, num_items=run.num_items), say, tick)
        if is_main:
            _export(run, state, model)
        accelerator.wait_for_everyone()
    return model


@dataclass(frozen=True)
class _Run:
    config: Config
    accelerator: Accelerator
    stage: Stage
    trained: Trained
    order: Order
    num_items: int
    metrics: MetricsFile | None  # None where another process writes


def _create_accelerator(mixed_precision: str) -> Accelerator:
    if mixed_precision == "fp16" and PartialState().device.type == "cpu":
        raise UserError("train.mixed_precision: fp16 needs a GPU, and there is none; use bf16 or no")
    try:
        return Accelerator(mixed_precision=mixed_precision)
    except ValueError as error:
        raise UserError(f"train.mixed_precision: {mixed_precision} is not possible here ({error})") from error


@contextmanager
def _claimed(run_dir: Path, is_main: bool) -> Iterator[None]:
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


def _start(config: Config, num_processes: int, say: Say) -> tuple[Path | None, TrainState]:
    """Where to begin: the newest complete checkpoint of this very recipe, or nothing at step 0."""
    train, run_dir = config.train, config.run.dir
    global_batch_size = train.micro_batch_size * train.gradient_accumulation_steps * num_processes
    checkpoint = latest_checkpoint(run_dir / "checkpoints", say)
    exported = _exported_step(run_dir / "model")
    if checkpoint is not None:
        state = read_state(checkpoint)
    elif exported is None:
        return None, TrainState(0, 0, train.seed, global_batch_size, 0)
    elif exported != train.max_train_steps:
        raise UserError(
            f"run.dir {run_dir}: holds a model of step {exported} but no complete checkpoint to go on from; "
            "name another run.dir"
        )
    else:
        state = TrainState(exported, 0, train.seed, global_batch_size, 0)
    recorded = _recorded(run_dir)
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


def _recorded(run_dir: Path) -> dict[str, Any]:
    """The config that a run was begun with, empty for a new one."""
    try:
        recorded = yaml.safe_load((run_dir / "config.yaml").read_text())
    except (OSError, ValueError, yaml.YAMLError):  # the user removed or broke it: the state still guards
        return {}
    return recorded if isinstance(recorded, dict) else {}


def _write_run_files(config: Config) -> None:
    write_file(config.run.dir / "config.yaml", config.to_yaml().encode())
    write_file(config.run.dir / "environment.json", (json.dumps(environment(), indent=1) + "\n").encode())


def _prepare(
    config: Config,
    accelerator: Accelerator,
    checkpoint: Path | None,
    state: TrainState,
    say: Say,
    progress: Callable[[int, int], None] | None,
) -> _Run:
    """Data, network, average and optimizer, as they were at `checkpoint`."""
    data = load_training_set(config.data, say, progress)
    torch.manual_seed(config.train.seed)
    stage: Stage = create_stage(config, data, accelerator.device, say)
    network = stage.network
    average = get_ema_multi_avg_fn(config.train.ema_decay)
    ema = AveragedModel(network, multi_avg_fn=average, use_buffers=True).eval()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.train.lr, weight_decay=config.train.weight_decay
    )
    num_items = len(data) if isinstance(data, Sized) else 0  # nobody knows of a stream
    if state.num_items not in (0, num_items):
        raise UserError(
            f"data: {num_items} items, but {config.run.dir} was begun with {state.num_items}, and their order would "
            "be another: bring them back, or name another run.dir"
        )
    if checkpoint is not None:
        load_checkpoint(checkpoint, network, ema, optimizer, accelerator.scaler, stage.adversary)
        say(f"resuming {config.run.dir} at step {state.global_step}")
    position = None if checkpoint is None else read_data_state(checkpoint, *_place(accelerator))
    order = create_order(data, config.train.seed, config.train.micro_batch_size, *_place(accelerator), position)
    metrics = None
    if accelerator.is_main_process:
        metrics = MetricsFile(config.run.dir / "metrics.jsonl", state.global_step)
    network, optimizer = accelerator.prepare(network, optimizer)
    if stage.adversary is not None:
        stage.adversary.prepare(accelerator)
    return _Run(config, accelerator, stage, Trained(network, ema, optimizer), order, num_items, metrics)


def _place(accelerator: Accelerator) -> tuple[int, int]:
    return accelerator.process_index, accelerator.num_processes


def _train_steps(run: _Run, state: TrainState, say: Say, tick: Tick) -> TrainState:
    train = run.config.train
    saved, pinned = state.global_step, 0
    if saved == 0:
        _preview(run, 0)
    with DelayedInterrupt() as interrupt:
        while state.global_step < train.max_train_steps and not interrupt.requested:
            state, row = _step(run, state)
            step, is_last = state.global_step, state.global_step == train.max_train_steps
            if run.metrics is not None and (step % train.log_every == 0 or step == 1):
                run.metrics.write(row)
            tick(step, train.max_train_steps, row)
            pinned = pinned + 1 if row.get("discriminator", math.inf) < PINNED_LOSS else 0
            if pinned == PINNED_STEPS:
                say(
                    f"step {step}: the discriminator has won for {PINNED_STEPS} updates and teaches nothing; try "
                    "a lower objective.adversarial.lr, a smaller num_discriminator_updates, or an r1_weight"
                )
            if step % train.preview_every == 0 or is_last:
                _preview(run, step)
            if step % train.checkpoint_every == 0 or is_last:
                _save(run, state)
                saved = step
        if interrupt.requested:
            if saved != state.global_step:
                say(f"interrupted: saving step {state.global_step}; once more Ctrl-C stops at once")
                _save(run, state)
            raise KeyboardInterrupt(f"step {state.global_step} is saved; run the same command to go on")
    return state


def _step(run: _Run, state: TrainState) -> tuple[TrainState, dict[str, float]]:
    """One update: the state after it and its row of metrics."""
    started = time.perf_counter()
    run.trained.network.train()
    try:
        row = update(
            run.stage, run.trained, run.config.train, run.order, state.global_step, run.accelerator
        )
    except NonFiniteError as error:
        raise NonFiniteError(f"{error}; the log is {run.config.run.dir / 'metrics.jsonl'}") from error
    state = replace(
        state, global_step=state.global_step + 1, images_seen=state.images_seen + state.global_batch_size
    )
    row = {"global_step": state.global_step, "images_seen": state.images_seen, **row}
    row["images_per_second"] = state.global_batch_size / (time.perf_counter() - started)
    row["peak_memory_bytes"] = peak_memory_bytes()
    return state, row


def _preview(run: _Run, step: int) -> None:
    if run.accelerator.is_main_process:
        images = run.stage.preview(run.trained.ema.module)
        write_preview(run.config.run.dir / "samples" / f"step-{step:06d}.png", images)


def _save(run: _Run, state: TrainState) -> None:
    data_states = gather_object([run.order.state()])  # of every process
    if run.accelerator.is_main_process:
        folder = run.config.run.dir / "checkpoints"
        network = run.accelerator.unwrap_model(run.trained.network)
        trained, scaler = run.trained, run.accelerator.scaler
        optimizer, adversary = trained.optimizer, run.stage.adversary
        save_checkpoint(folder, state, network, trained.ema, optimizer, scaler, adversary, data_states)
        prune_checkpoints(folder, state.global_step, run.config.train.keep_checkpoints)


def _export(run: _Run, state: TrainState, model: Path) -> None:
    with atomic_folder(model) as folder:
        run.stage.export(run.trained.ema.module, folder)
        done = {
            "stage": run.config.stage,
            "global_step": state.global_step,
            "images_seen": state.images_seen,
        }
        (folder / EXPORT_FILE).write_text(json.dumps(done, indent=1) + "\n")


def _exported_step(model: Path) -> int | None:
    try:
        return json.loads((model / EXPORT_FILE).read_text())["global_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
