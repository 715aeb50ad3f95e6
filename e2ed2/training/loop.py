"""The training loop, top to bottom: run folder, data, network, resume, update, log, preview, checkpoint, model."""

import json
import time
from collections.abc import Callable, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from e2ed2.data.order import Order
from e2ed2.recipe.config import Config
from e2ed2.recipe.load import check_config
from e2ed2.system.errors import NonFiniteError, UserError
from e2ed2.system.files import atomic_folder
from e2ed2.system.processes import about_processes, process_state
from e2ed2.system.signals import NOTICES_ARE_CTRL_C, handled
from e2ed2.system.watch import Watch, silent
from e2ed2.training.checkpoint import (
    TrainState,
    is_sharded,
    load_checkpoint,
    load_scale,
    prune_checkpoints,
    read_data_state,
    save_checkpoint,
)
from e2ed2.training.cluster.agreement import about_items, check_agreement, recipe_and_code
from e2ed2.training.cluster.launch import check_launch, create_accelerator
from e2ed2.training.cluster.prepare import prepare, unwrapped
from e2ed2.training.cluster.sharding import WholeAverage
from e2ed2.training.cluster.shards import load_shards, save_shards, tensors_of
from e2ed2.training.interrupt import Interrupt, delayed_interrupt
from e2ed2.training.journal.journal import Journal, Show, journal, unseen
from e2ed2.training.journal.trackers import begin_trackers
from e2ed2.training.latents.training_set import about_data, create_order, load_training_set
from e2ed2.training.log import peak_memory_bytes, reset_peak_memory
from e2ed2.training.precision import resolve_precision
from e2ed2.training.run_folder import (
    EXPORT_FILE,
    claimed,
    end_of,
    exported_step,
    find_start,
    recorded_config,
    shared_out,
    write_data_file,
    write_run_files,
)
from e2ed2.training.stages.create import create_stage
from e2ed2.training.step import Stage, Trained, update
from e2ed2.training.validation import Validation, create_validation, read_evaluations, stopped_at

Say = Callable[[str], None]
Tick = Callable[[int, int, dict[str, float]], None]

PATIENCE = timedelta(hours=2)  # of the processes that wait while the first one measures
PINNED_LOSS, PINNED_STEPS = 1e-3, 50  # a discriminator's loss below this, for so long, is at its least
WON_FOR = "discriminator_won_for"  # in metrics.jsonl: for how many updates in a row it has been


@handled(NOTICES_ARE_CTRL_C)
def train(
    config: Config,
    say: Say = print,
    tick: Tick = lambda step, steps, row: None,
    watch: Watch = silent,
    show: Show = unseen,
) -> Path:
    """Run a stage to `max_train_steps`, or resume it; returns the model folder.

    Args:
        say: told what happens, one line at a time.
        tick: called after each update with (global_step, max_train_steps, metrics row).
        watch: shown how far reading the data and evaluations are.
        show: called with the run folder when there is more to see in it: a preview, an evaluation, another state.
    Raises:
        UserError: something the user can mend. NonFiniteError: training diverged.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the state is saved.
    """
    check_config(config)
    check_launch()
    device = process_state(PATIENCE).device
    config = resolve_precision(config, recorded_config(config.run.dir), device)
    accelerator = create_accelerator(config)
    reset_peak_memory()
    is_main, num_processes = accelerator.is_main_process, accelerator.num_processes
    say = say if is_main else lambda line: None
    say(about_processes(PartialState(), config.train.mixed_precision))
    model = config.run.dir / "model"
    check_agreement("recipe and code:", partial(recipe_and_code, config), num_processes)
    with claimed(config.run.dir, is_main):
        start = [find_start(config, num_processes, say) if is_main else None]
        checkpoint, state = broadcast_object_list(start)[0]
        if state.global_step == end_of(config) == exported_step(model):
            say(f"{config.run.dir} is finished at step {state.global_step}; its model is {model}")
            return model
        with journal(config, show, say, "preparing", is_main=is_main, step=state.global_step) as kept:
            validation = create_validation(config, watch) if is_main else None
            shared = shared_out(config, state, num_processes)
            progress = partial(watch, "reading data")
            run = _prepare(shared, accelerator, checkpoint, state, validation, kept, say, progress)
            if is_main:
                write_run_files(config, num_processes)
            now = {"num_items": run.num_items, "num_processes": num_processes}
            state = _train_steps(run, state.model_copy(update=now), say, tick)
            with run.average() as network:
                if is_main:
                    with atomic_folder(model) as folder:
                        _export(run, state, network, folder)
        accelerator.wait_for_everyone()
        # A DistributedDataParallel that is freed after its process group can hang: the group's end waits for a thread
        # that waits for the interpreter's lock (seen with torch 2.13 and gloo).
        del run
        accelerator.free_memory()
        accelerator.end_training()
    return model


@dataclass(frozen=True)
class _Run:
    config: Config
    accelerator: Accelerator
    stage: Stage
    trained: Trained
    order: Order
    num_items: int
    journal: Journal
    validation: Validation | None  # None where another process measures, or none does
    whole: WholeAverage | None  # None where the average is not in shards

    def average(self) -> AbstractContextManager[nn.Module]:
        """The average as an ordinary network, in the main process. All have to call it."""
        average = self.trained.ema.module
        return nullcontext(average) if self.whole is None else self.whole.of(average)


def _prepare(
    config: Config,
    accelerator: Accelerator,
    checkpoint: Path | None,
    state: TrainState,
    validation: Validation | None,
    kept: Journal,
    say: Say,
    progress: Callable[[int, int], None],
) -> _Run:
    """Data, network, average and optimizer, as they were at `checkpoint`."""
    data = load_training_set(config.data, say, progress)
    check_agreement("data:", partial(about_items, data), accelerator.num_processes)
    torch.manual_seed(config.train.seed)
    stage: Stage = create_stage(config, data, accelerator.device, kept.note)
    trained = Trained.begin(stage.network, config.train)
    num_items = len(data) if isinstance(data, Sized) else 0  # nobody knows of a stream
    if state.num_items not in (0, num_items):
        raise UserError(
            f"data: {num_items} items, but {config.run.dir} was begun with {state.num_items}, and their order would "
            "be another: bring them back, or name another run.dir"
        )
    if checkpoint is not None:
        if not is_sharded(checkpoint):
            parts = (trained.network, trained.ema, trained.optimizer)
            load_checkpoint(checkpoint, *parts, accelerator.scaler, stage.adversary)
        say(f"resuming {config.run.dir} at step {state.global_step}")
    place = (accelerator.process_index, accelerator.num_processes)
    position = None if checkpoint is None else read_data_state(checkpoint, *place)
    order = create_order(data, config, *place, position)
    kept.begin(state.global_step)
    if accelerator.is_main_process:
        if about := about_data(data):
            write_data_file(config.run.dir, about | {"said": kept.notes})
        if validation is not None:
            validation.forget_after(state.global_step)
    begin_trackers(accelerator, config)
    trained, whole = prepare(accelerator, trained, stage.adversary)
    if checkpoint is not None and is_sharded(checkpoint):
        load_shards(checkpoint, unwrapped(accelerator, trained), stage.adversary, accelerator.process_index)
        load_scale(checkpoint, accelerator.scaler)
    return _Run(config, accelerator, stage, trained, order, num_items, kept, validation, whole)


def _train_steps(run: _Run, state: TrainState, say: Say, tick: Tick) -> TrainState:
    train = run.config.train
    saved = state.global_step
    won_for = int(run.journal.metrics.resumed.get(WON_FOR) or 0) if run.journal.is_main else 0
    if saved == 0:
        _preview(run, 0)
    with delayed_interrupt() as interrupt:
        is_over = _validate(run, state, say, interrupt)
        while state.global_step < train.max_train_steps and not is_over and not interrupt.is_agreed(run.accelerator):
            state, row = _step(run, state)
            if "discriminator" in row:
                row[WON_FOR] = won_for = won_for + 1 if row["discriminator"] < PINNED_LOSS else 0
            step, is_last = state.global_step, state.global_step == train.max_train_steps
            if step % train.log_every == 0 or step == 1:
                run.journal.row(run.accelerator, row, step)
            tick(step, train.max_train_steps, row)
            if won_for == PINNED_STEPS:
                say(
                    f"step {step}: the discriminator has won for {PINNED_STEPS} updates and teaches nothing; try "
                    "a lower objective.adversarial.lr, a smaller num_discriminator_updates, or an r1_weight"
                )
            if step % train.preview_every == 0 or is_last:
                _preview(run, step)
            if step % train.checkpoint_every == 0 or is_last:
                _save(run, state)
                saved = step
            is_over = _validate(run, state, say, interrupt)
        if is_over and saved != state.global_step:
            _save(run, state)
            saved = state.global_step
        if interrupt.is_agreed(run.accelerator):
            if saved != state.global_step:
                say(f"interrupted: saving step {state.global_step}; once more Ctrl-C stops at once")
                _save(run, state)
            done = f"step {state.global_step} is saved" if state.global_step else "nothing was trained yet"
            raise KeyboardInterrupt(f"{done}; run the same command to go on")
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
    seen = state.images_seen + state.global_batch_size
    state = state.model_copy(update={"global_step": state.global_step + 1, "images_seen": seen})
    row = {"global_step": state.global_step, "images_seen": state.images_seen, **row}
    row["images_per_second"] = state.global_batch_size / (time.perf_counter() - started)
    row["peak_memory_bytes"] = peak_memory_bytes()
    return state, row


def _validate(run: _Run, state: TrainState, say: Say, interrupt: Interrupt) -> bool:
    """Measure the average where that is due; returns, in every process, whether that ends the run.

    Ctrl-C ends the measuring; it is done again when the run goes on.
    """
    config, step = run.config, state.global_step
    is_due = step % config.evaluation.every == 0 or step == config.train.max_train_steps
    if config.evaluation.protocol is None or not is_due:
        return False
    ends = [False]
    with run.average() as network:
        if run.validation is not None:
            if step not in read_evaluations(config.run.dir):  # an interrupted run may have measured it
                export = partial(_export, run, state, network)
                run.journal.now("measuring")
                say(run.validation.measure(step, export, lambda: interrupt.requested))
                run.journal.evaluated(run.accelerator, step)
            ends = [step == stopped_at(config)]
            if ends[0]:
                ends_after = f"no better for {config.evaluation.patience} evaluations, so that the run ends"
                say(f"step {step}: {ends_after}; the best model is {config.run.dir / 'best'}")
    return broadcast_object_list(ends)[0]


def _preview(run: _Run, step: int) -> None:
    with run.average() as network:
        if run.accelerator.is_main_process:
            run.journal.preview(run.accelerator, run.stage.preview(network), step)


def _save(run: _Run, state: TrainState) -> None:
    accelerator, trained, adversary = run.accelerator, unwrapped(run.accelerator, run.trained), run.stage.adversary
    data_states = gather_object([run.order.state()])  # of every process
    if adversary is not None:
        adversary.gather_past(accelerator)
    folder = run.config.run.dir / "checkpoints"
    if accelerator.is_fsdp2:
        save_shards(folder, state, tensors_of(trained, adversary, accelerator.process_index), accelerator, data_states)
    elif accelerator.is_main_process:
        parts = (trained.network, trained.ema, trained.optimizer, accelerator.scaler)
        save_checkpoint(folder, state, *parts, adversary, data_states)
    if accelerator.is_main_process:
        prune_checkpoints(folder, state.global_step, run.config.train.keep_checkpoints)
    accelerator.wait_for_everyone()  # nobody leaves before all is saved


def _export(run: _Run, state: TrainState, network: nn.Module, folder: Path) -> None:
    """The average as a model folder."""
    run.stage.export(network, folder)
    done = {"stage": run.config.stage, "global_step": state.global_step, "images_seen": state.images_seen}
    (folder / EXPORT_FILE).write_text(json.dumps(done, indent=1) + "\n")
    if run.validation is not None:
        run.validation.describe(folder, state.global_step)
