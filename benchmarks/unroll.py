"""What unrolling costs on a CPU: time against bare passes of the network, memory against the number of steps.

    OMP_NUM_THREADS=1 python -m benchmarks.unroll [--json] [--rounds 5]

A PixArt of 18M random weights (12 layers, width 288) on latents of 16x16 cells and prompts of 20 tokens, a micro-batch
of 8, float32, LCM's solver. Times are medians of ratios: in every round each thing is done once, so that a slow moment
of the machine is a slow moment of all. Memory is the peak of a process of its own above what it held before its first
update, in a plain shell, with glibc's defaults.

- `unroll_overhead`: chain of four steps and its gradient over four bare passes, forward and backward.
- `update_overhead`: a whole update (chain, gradient, clipping, AdamW, average) over four bare passes and AdamW's step.
- `checkpoint_overhead`: the chain with steps recomputed over the chain without.
- `loop_overhead`: a diffusers pipeline's loop with `LCMScheduler.step`, gradients on, over four bare passes.
- `memory_growth`: peak with steps recomputed, eight steps over one.
- `batch_at_equal_memory`, `time_at_equal_memory`: the largest batch of the chain with steps recomputed whose peak is no
  more than the loop's at 8, over 8; and its time an image over the loop's.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from benchmarks.networks import Model, pixart
from e2ed2.data.order import ShuffledOrder
from e2ed2.models.denoiser import denoiser_of
from e2ed2.models.families import network_of
from e2ed2.models.few_step_network import FewStepNetwork
from e2ed2.models.scheduler import prediction_type_of, schedule_of
from e2ed2.recipe.config import TrainConfig
from e2ed2.schedule import lcm_timesteps
from e2ed2.system.drawing.markdown import markdown_table
from e2ed2.training.log import peak_memory_bytes, reset_peak_memory
from e2ed2.training.step import Trained, update
from e2ed2.trajectory import draw_noises

STEPS, BATCH, TOKENS, LARGER = 4, 8, 20, (10, 12, 14, 16, 18, 20, 24, 28, 32)
SIZE = {
    "num_layers": 12, "num_attention_heads": 4, "attention_head_dim": 72, "cross_attention_dim": 288,
    "caption_channels": 384,
}  # fmt: skip


class Chain:
    """A training stage: the whole chain from noise on random latents and prompts, L2 at its end."""

    adversary = began_at = None
    weights = {"l2": 1.0}

    def __init__(self, num_steps: int, batch_size: int, recomputes_steps: bool = False):
        torch.manual_seed(0)
        made = pixart(128, **SIZE)
        self.model = Model(made.pipeline, TOKENS, made.side)
        self.bare, pipeline = network_of(made.pipeline), made.pipeline
        self.denoise = denoiser_of(pipeline, self.bare)
        self.network = FewStepNetwork(
            [self.bare],
            lambda network: denoiser_of(pipeline, network),
            schedule_of(pipeline.scheduler),
            prediction_type_of(pipeline.scheduler),
            [lcm_timesteps(k) for k in range(1, num_steps + 1)],
        )
        self.x0, self.cond = self.model.latents(batch_size), self.model.condition(batch_size)
        self.num_steps, self.recomputes_steps = num_steps, recomputes_steps

    def noises(self, generator: torch.Generator) -> Tensor:
        return draw_noises(self.x0.shape, self.num_steps, generator)

    def loss_terms(self, network: nn.Module, ema: Any, rows: Any, generator: torch.Generator) -> dict[str, Tensor]:
        samples = network(self.noises(generator), self.cond, gradient_checkpointing=self.recomputes_steps)
        return {"l2": (samples - self.x0).square().mean()}


def chain(stage: Chain) -> None:
    stage.loss_terms(stage.network, None, None, torch.Generator().manual_seed(0))["l2"].backward()
    stage.network.zero_grad()


def passes(stage: Chain) -> None:
    """As many times the network forward and backward, with nothing between them."""
    x_t = stage.noises(torch.Generator().manual_seed(0))[0].requires_grad_()
    for _ in range(stage.num_steps):
        stage.denoise(x_t, torch.full((len(x_t),), 500), stage.cond).square().mean().backward()
    stage.network.zero_grad()


def loop(stage: Chain) -> None:
    """A diffusers pipeline's loop with its graph kept: the scheduler's own step, stateful."""
    scheduler, generator = stage.model.pipeline.scheduler, torch.Generator().manual_seed(0)
    latents = stage.noises(torch.Generator().manual_seed(0))[0]
    scheduler.set_timesteps(stage.num_steps)
    for t in scheduler.timesteps:
        prediction = stage.denoise(latents, t.expand(len(latents)), stage.cond)
        latents = scheduler.step(prediction, t, latents, generator=generator).prev_sample
    (latents - stage.x0).square().mean().backward()
    stage.network.zero_grad()


WORKS: dict[str, Callable[[Chain], None]] = {"chain": chain, "loop": loop}


def updating(stage: Chain) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """An update, and AdamW's step alone, which the bare passes need too."""
    config, order = TrainConfig(micro_batch_size=BATCH, mixed_precision="no"), ShuffledOrder(0, BATCH, BATCH)
    accelerator, trained = Accelerator(cpu=True), Trained.begin(stage.network, config)

    def step() -> None:
        for p in stage.network.parameters():
            p.grad = torch.zeros_like(p)
        trained.optimizer.step()
        trained.optimizer.zero_grad()

    return lambda: update(stage, trained, config, order, 0, accelerator), step


def times(rounds: int) -> dict[str, float]:
    """Ratios of time."""
    plain, again, own = Chain(STEPS, BATCH), Chain(STEPS, BATCH, recomputes_steps=True), Chain(STEPS, BATCH)
    whole, adamw = updating(own)
    works: dict[str, Callable[[], Any]] = {
        "passes": lambda: passes(plain), "chain": lambda: chain(plain), "recomputed": lambda: chain(again),
        "loop": lambda: loop(plain), "update": whole, "adamw": adamw,
    }  # fmt: skip
    found = [{name: seconds(work) for name, work in works.items()} for _ in range(rounds + 1)][1:]
    return {
        "unroll_overhead": median(row["chain"] / row["passes"] for row in found),
        "update_overhead": median(row["update"] / (row["passes"] + row["adamw"]) for row in found),
        "checkpoint_overhead": median(row["recomputed"] / row["chain"] for row in found),
        "loop_overhead": median(row["loop"] / row["passes"] for row in found),
    }


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def memory() -> dict[str, float]:
    """Growth with the number of steps, and the batch that the memory of the plain loop holds."""
    peak, _ = apart("loop", STEPS, BATCH, recomputes_steps=False)
    fitting = BATCH
    for batch_size in LARGER:
        if apart("chain", STEPS, batch_size, recomputes_steps=True)[0] > peak:
            break
        fitting = batch_size
    plain, ours = Chain(STEPS, BATCH), Chain(STEPS, fitting, recomputes_steps=True)
    found = [seconds(lambda: chain(ours)) / fitting / (seconds(lambda: loop(plain)) / BATCH) for _ in range(4)][1:]
    steps = [apart("chain", k, BATCH, recomputes_steps=True)[0] for k in (1, 8)]
    return {
        "memory_growth": steps[1] / steps[0],
        "batch_at_equal_memory": fitting / BATCH,
        "time_at_equal_memory": median(found),
    }


def apart(work: str, num_steps: int, batch_size: int, *, recomputes_steps: bool) -> tuple[int, float]:
    """(Bytes above what there was before, seconds of the last) of three in a process of its own."""
    asked = json.dumps([work, num_steps, batch_size, recomputes_steps])
    command = [sys.executable, "-m", "benchmarks.unroll", "--apart", asked]
    peak, taken = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return peak, taken


def _apart(work: str, num_steps: int, batch_size: int, recomputes_steps: bool) -> None:
    stage = Chain(num_steps, batch_size, recomputes_steps)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    reset_peak_memory()
    taken = [seconds(lambda: WORKS[work](stage)) for _ in range(3)]
    print(json.dumps([peak_memory_bytes() - before, taken[-1]]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unroll")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--apart", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.apart:
        _apart(*json.loads(asked.apart))
        return
    found = {**times(asked.rounds), **memory()}
    table = markdown_table(["", "ratio"], [[name, f"{value:.3f}"] for name, value in found.items()])
    print(json.dumps(found, indent=1) if asked.json else table)


if __name__ == "__main__":
    main()
