"""The training loop, top to bottom: data, network, resume, update, log, preview, checkpoint, model folder."""

import json
import platform
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from e2ed2.errors import NonFiniteError, UserError
from e2ed2.training.checkpoint import (
    TrainState,
    atomic_folder,
    latest_checkpoint,
    load_checkpoint,
    prune_checkpoints,
    read_state,
    save_checkpoint,
)
from e2ed2.training.config import Config
from e2ed2.training.log import MetricsFile, image_grid
from e2ed2.training.stages import create_stage, load_training_set
from e2ed2.training.step import Trained, update

Say = Callable[[str], None]
Tick = Callable[[int, int, dict[str, float]], None]


def train(config: Config, say: Say = print, tick: Tick = lambda step, steps, row: None) -> Path:
    """Run a stage to `max_train_steps`, or resume it; returns the model folder.

    Args:
        say: told what happens, one line at a time.
        tick: called after each update with (global_step, max_train_steps, metrics row).
    Raises:
        UserError: something the user can mend. NonFiniteError: training diverged.
        KeyboardInterrupt: after Ctrl-C, once the state is saved.
    """
    run_dir = config.run.dir
    accelerator = Accelerator(mixed_precision=config.train.mixed_precision)
    data = load_training_set(config.data, say)
    torch.manual_seed(config.train.seed)
    stage = create_stage(config, data, accelerator.device, say)
    network = stage.network
    ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.train.ema_decay), use_buffers=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.train.lr, weight_decay=config.train.weight_decay)
    state = _resume(config, accelerator, network, ema, optimizer, say)
    _write_run_files(config)
    metrics = MetricsFile(run_dir / "metrics.jsonl", state.global_step)
    network, optimizer = accelerator.prepare(network, optimizer)
    trained = Trained(network, ema, optimizer)

    def save(at: TrainState) -> None:
        if accelerator.is_main_process:
            save_checkpoint(run_dir / "checkpoints", at, accelerator.unwrap_model(network), ema, optimizer)
            prune_checkpoints(run_dir / "checkpoints", config.train.keep_checkpoints)

    def preview(step: int) -> None:
        if accelerator.is_main_process:
            (run_dir / "samples").mkdir(exist_ok=True)
            image_grid(stage.preview(ema.module), columns=8).save(run_dir / "samples" / f"step-{step:06d}.png")

    if state.global_step == 0:
        preview(0)
    with _DelayedInterrupt() as interrupt:
        while state.global_step < config.train.max_train_steps and not interrupt.requested:
            started = time.perf_counter()
            network.train()
            try:
                row = update(stage, trained, config.train, len(data), state.global_step, accelerator)
            except NonFiniteError as error:
                raise NonFiniteError(f"{error}; the log is {run_dir / 'metrics.jsonl'}") from error
            state = _advance(state)
            step = state.global_step
            row = {"global_step": step, "images_seen": state.images_seen, **row}
            row["images_per_second"] = state.global_batch_size / (time.perf_counter() - started)
            row["peak_memory_bytes"] = peak_memory_bytes()
            if accelerator.is_main_process and (step % config.train.log_every == 0 or step == 1):
                metrics.write(row)
            tick(step, config.train.max_train_steps, row)
            if step % config.train.preview_every == 0 or step == config.train.max_train_steps:
                preview(step)
            if step % config.train.checkpoint_every == 0 or step == config.train.max_train_steps:
                save(state)
        if interrupt.requested:
            save(state)
            raise KeyboardInterrupt(f"saved step {state.global_step}; run the same command to go on")

    if accelerator.is_main_process:
        with atomic_folder(run_dir / "model") as folder:
            stage.export(ema.module, folder)
    return run_dir / "model"


def _resume(config: Config, accelerator: Accelerator, network, ema, optimizer, say: Say) -> TrainState:
    train = config.train
    global_batch_size = train.micro_batch_size * train.gradient_accumulation_steps * accelerator.num_processes
    checkpoint = latest_checkpoint(config.run.dir / "checkpoints", say)
    if checkpoint is None:
        return TrainState(0, 0, train.seed, global_batch_size)
    state = read_state(checkpoint)
    for field, now in (("seed", train.seed), ("global_batch_size", global_batch_size)):
        if getattr(state, field) != now:
            raise UserError(
                f"{checkpoint}: {field} is {getattr(state, field)} there and {now} in the recipe; "
                "resuming needs the same (or another run.dir)"
            )
    load_checkpoint(checkpoint, network, ema, optimizer)
    say(f"resuming {config.run.dir} at step {state.global_step}")
    return state


def _advance(state: TrainState) -> TrainState:
    return TrainState(
        state.global_step + 1, state.images_seen + state.global_batch_size, state.seed, state.global_batch_size
    )


def peak_memory_bytes() -> int:
    """The accelerator's peak allocation, or the process's peak resident size on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def _write_run_files(config: Config) -> None:
    try:
        config.run.dir.mkdir(parents=True, exist_ok=True)
        (config.run.dir / "config.yaml").write_text(config.to_yaml())
        (config.run.dir / "environment.json").write_text(json.dumps(environment(), indent=1))
    except OSError as error:
        raise UserError(f"run.dir {config.run.dir}: cannot be written ({error.strerror})") from error


def environment() -> dict[str, object]:
    """Versions, hardware and commit."""
    import diffusers
    import transformers

    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "platform": platform.platform(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "num_threads": torch.get_num_threads(),
        "commit": commit.stdout.strip() or None,
    }


class _DelayedInterrupt:
    """Turns the first Ctrl-C into a request that the loop honours between updates; a second one is immediate."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "_DelayedInterrupt":
        self._previous = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _request(self, number: int, frame: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
