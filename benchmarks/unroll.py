"""What unrolling costs on a CPU: time against bare passes of the network, memory against the number of steps.

    OMP_NUM_THREADS=1 python -m benchmarks.unroll [--json] [--out results/benchmarks]

A PixArt of 18M random weights (12 layers, width 288) on latents of 16x16 cells and prompts of 20 tokens, a micro-batch
of 16, float32, LCM's solver. Times are medians of ratios: in every round each thing is done once, so that a slow moment
of the machine is a slow moment of all. Memory is the peak of a process of its own above what it held before its first
update, in a plain shell, with glibc's defaults.

- `unroll_overhead`: chain of four steps and its gradient over four bare passes, forward and backward.
- `update_overhead`: a whole update (chain, gradient, clipping, AdamW, average) over four bare passes and AdamW's step.
- `checkpoint_overhead`: the chain with steps recomputed, over the chain without.
- `compile_ratio`, `compile_ratio_bf16`: the chain with compiled blocks over the chain without, in float32 and in bf16.
- `selective_overhead`: compiled blocks that are selectively recomputed, over compiled ones that are not.
  `selective_memory`: bytes that autograd keeps of them, over those of plain blocks. `eager_selective_overhead` and
  `eager_selective_memory`: the same where nothing is compiled.
- `loop_overhead`: a diffusers pipeline's loop with `LCMScheduler.step`, gradients on, over four bare passes.
- `memory_growth`: peak with steps recomputed, eight steps over one.
- `batch_at_equal_memory`, `time_at_equal_memory`: the largest batch of the chain, its blocks compiled and selectively
  recomputed, whose peak is no more than the loop's at 16, over 16; and its time an image over the loop's.
- `distil_overhead`, `distil_speed`: beside the loop as DiffSynth-Studio's direct distillation runs it (written here,
  not theirs: latents through all steps, the mean square to a teacher's, one image at a time, blocks recomputed). The
  chain's time over it, one image and blocks recomputed in both; and images a second over it, each at its best: theirs
  with blocks recomputed or not, in float32 or bf16; ours with 16 images and compiled blocks, in bf16.
"""

import json
import math
import resource
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.chain import Chain, bare, diffusers_loop, unrolled
from benchmarks.networks import Model, pixart
from benchmarks.published import publish, seconds
from e2ed2.data.order import ShuffledOrder
from e2ed2.models.compiled import compile_blocks
from e2ed2.models.families import network_of
from e2ed2.models.memory.recompute import recompute_blocks
from e2ed2.recipe.config import TrainConfig
from e2ed2.schedule import lcm_timesteps
from e2ed2.training.log import peak_memory_bytes, reset_peak_memory
from e2ed2.training.step import Trained, update

STEPS, BATCH, TOKENS, ROUNDS = 4, 16, 20, 5
BEST = "compiled selective"
LARGER = tuple(range(2 * BATCH, 4 * BATCH, BATCH // 2))
SIZE = {
    "num_layers": 12, "num_attention_heads": 4, "attention_head_dim": 72, "cross_attention_dim": 288,
    "caption_channels": 384,
}  # fmt: skip


def stage_of(num_steps: int, batch_size: int, recomputed: str = "nothing") -> Chain:
    """The chain of a network that is the same every time.

    Args:
        recomputed: `nothing`, `steps`, `blocks` or `selective`; or `compiled`, `compiled selective`, in a process of
            its own.
    """
    torch.manual_seed(0)
    made = pixart(128, **SIZE)
    recompute_blocks(network_of(made.pipeline), "selective" if recomputed == "selective" else recomputed == "blocks")
    if recomputed.startswith("compiled"):
        compile_blocks(network_of(made.pipeline), recomputed == BEST)
    model = Model(made.pipeline, TOKENS, made.side)
    grids = [lcm_timesteps(k) for k in range(1, num_steps + 1)]
    network, x0, cond = network_of(made.pipeline), model.latents(batch_size), model.condition(batch_size)
    return Chain(made.pipeline, network, grids, x0, cond, recomputes_steps=recomputed == "steps")


def works(stage: Chain) -> dict[str, Callable[[], None]]:
    """What is timed of a chain; gradients are gone after each."""
    accelerator = Accelerator(cpu=True)

    def clean(work: Callable[[], None]) -> Callable[[], None]:
        def done() -> None:
            work()
            stage.network.zero_grad()

        return done

    return {
        "chain": clean(lambda: unrolled(stage, stage.network, accelerator)),
        "passes": clean(lambda: bare(stage, accelerator)),
        "loop": clean(lambda: diffusers_loop(stage, accelerator)),
    }


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


def times() -> dict[str, float]:
    """Ratios of time."""
    whole, adamw = updating(stage_of(STEPS, BATCH))
    recomputed = {how: works(stage_of(STEPS, BATCH, how))["chain"] for how in ("steps", "selective")}
    every = works(stage_of(STEPS, BATCH)) | recomputed | {"update": whole, "adamw": adamw}
    found = [{name: seconds(work) for name, work in every.items()} for _ in range(ROUNDS + 1)][1:]
    return {
        "unroll_overhead": median(row["chain"] / row["passes"] for row in found),
        "update_overhead": median(row["update"] / (row["passes"] + row["adamw"]) for row in found),
        "checkpoint_overhead": median(row["steps"] / row["chain"] for row in found),
        "eager_selective_overhead": median(row["selective"] / row["chain"] for row in found),
        "loop_overhead": median(row["loop"] / row["passes"] for row in found),
    }


def compiled() -> dict[str, float]:
    """Ratios of compiled blocks."""
    plain, selective = apart("ratio", "compiled", False), apart("ratio", BEST, False)
    return {
        "compile_ratio": plain[0],
        "compile_ratio_bf16": apart("ratio", "compiled", True)[0],
        "selective_overhead": selective[0] / plain[0],
        "selective_memory": selective[1],
    }


def distilled() -> dict[str, float]:
    """Ratios to the loop of direct distillation."""
    ways = [(how, is_bf16) for how in ("blocks", "nothing") for is_bf16 in (False, True)]
    theirs = {way: apart("peak", "loop", STEPS, 1, *way)[1] for way in ways}
    ours = apart("peak", "chain", STEPS, 1, *ways[0])[1]
    best = apart("peak", "chain", STEPS, BATCH, "compiled", True)[1] / BATCH
    return {"distil_overhead": ours / theirs[ways[0]], "distil_speed": min(theirs.values()) / best}


def _ratio(how: str, is_bf16: bool) -> tuple[float, float]:
    """Time and bytes kept of a chain over those of the plain one."""
    stages = [stage_of(STEPS, BATCH, recomputed) for recomputed in (how, "nothing")]
    one, other = (works(stage)["chain"] for stage in stages)
    found = []
    with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
        for _ in range(ROUNDS + 2):  # the first two compile
            found.append(seconds(one) / seconds(other))
    return median(found[2:]), saved(stages[0]) / saved(stages[1])


def saved(stage: Chain) -> int:
    """Bytes of tensors that autograd saves of a chain, but for the weights."""
    with saving([*stage.network.parameters(), *stage.network.buffers()]) as found:
        loss = stage.loss_terms(stage.network, None, None, torch.Generator().manual_seed(0))["l2"]
    assert loss.requires_grad
    return sum(found.values())


@contextmanager
def saving(known: Iterable[Tensor]) -> Iterator[dict[int, int]]:
    """Storage -> bytes of what autograd saves meanwhile, `known` tensors left out.

    It sees compiled blocks, which `Alive` does not, and not what is selected without a compiler.
    """
    weights, found = {x.untyped_storage()._cdata for x in known}, dict[int, int]()

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in weights:
            found[storage._cdata] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        yield found


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors that are made under it and live; `known` storages are none of them."""

    def __init__(self, known: Iterable[Tensor]):
        super().__init__()
        self.num_bytes, self._known = 0, {x.untyped_storage()._cdata for x in known}

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = op(*args, **(kwargs or {}))
        for storage in (x.untyped_storage() for x in tree_leaves(made) if isinstance(x, Tensor)):
            if storage._cdata not in self._known:
                self._known.add(storage._cdata)
                self.num_bytes += storage.nbytes()
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return made

    def _gone(self, storage: int, size: int) -> None:
        self._known.discard(storage)
        self.num_bytes -= size


def kept(recomputed: str) -> int:
    """Bytes of the tensors that backward will need of a chain."""
    stage = stage_of(STEPS, BATCH, recomputed)
    with Alive([*stage.network.parameters(), *stage.network.buffers()]) as alive:
        loss = stage.loss_terms(stage.network, None, None, torch.Generator().manual_seed(0))
        assert loss["l2"].requires_grad
        return alive.num_bytes


def memory() -> dict[str, float]:
    """Growth with the number of steps, and the batch that the memory of the plain loop holds."""
    peak, plain = apart("peak", "loop", STEPS, BATCH, "nothing")
    fitting, taken = BATCH, math.nan
    for batch_size in LARGER:
        needed, time = apart("peak", "chain", STEPS, batch_size, BEST)
        if needed > peak:
            break
        fitting, taken = batch_size, time
    steps = [apart("peak", "chain", k, BATCH, "steps")[0] for k in (1, 8)]
    return {
        "eager_selective_memory": kept("selective") / kept("nothing"),
        "memory_growth": steps[1] / steps[0],
        "batch_at_equal_memory": fitting / BATCH,
        "time_at_equal_memory": taken / fitting / (plain / BATCH),
    }


def apart(*asked: Any) -> tuple[float, float]:
    """What `_peak` or `_ratio` finds in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.unroll", "--apart", json.dumps(asked)]
    one, other = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return one, other


def _peak(
    work: str, num_steps: int, batch_size: int, recomputed: str, is_bf16: bool = False
) -> tuple[float, float]:
    """Bytes above what there was before, and the median of seconds without the first."""
    done = works(stage_of(num_steps, batch_size, recomputed))[work]
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    reset_peak_memory()
    with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
        taken = [seconds(done) for _ in range(max(4, 2 * BATCH // batch_size))]
    return peak_memory_bytes() - before, median(taken[1:])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--apart"]:
        what, *asked = json.loads(sys.argv[2])
        print(json.dumps({"peak": _peak, "ratio": _ratio}[what](*asked)))
    else:
        publish("unroll", lambda: {**times(), **compiled(), **distilled(), **memory()})
