"""Time and memory of one setting: a whole update beside K bare passes and the plain diffusers loop, turn by turn."""

import gc
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.chain import Chain, bare, diffusers_loop, unrolled
from benchmarks.gpu.settings import PIXART, Setting
from benchmarks.networks import TINY_PIXART, TINY_UNET, Model, autoencoder, pixart, sdxl
from e2ed2.data.order import ShuffledOrder
from e2ed2.models.autoencoder import decode_parts
from e2ed2.models.families import network_of
from e2ed2.models.lora.adapter import lora_copies
from e2ed2.recipe.config import TrainConfig
from e2ed2.schedule import lcm_timesteps
from e2ed2.training.log import peak_memory_bytes, reset_peak_memory
from e2ed2.training.step import Trained, update

ROUNDS = 3
RANK = 64
Row = dict[str, Any]


def chain_of(model: Model, setting: Setting) -> tuple[Chain, nn.Module]:
    """(The setting's chain on random latents and prompts, the network that it runs)."""
    network = network_of(model.pipeline)
    if setting.checkpointing in ("blocks", "both"):
        network.enable_gradient_checkpointing()
    if setting.trained == "lora":
        network = lora_copies(network.to(torch.bfloat16), 1, RANK)[0]
    if setting.is_compiled:
        for part in [module for module in network.modules() if type(module).__name__ == setting.compiled_part]:
            part.compile()  # all of a kind share the code, which is compiled once
    grids = [lcm_timesteps(k) for k in range(1, setting.num_steps + 1)]
    x0, cond = model.latents(setting.batch_size), model.condition(setting.batch_size)
    recomputes_steps = setting.checkpointing in ("steps", "both")
    return Chain(model.pipeline, network, grids, x0, cond, recomputes_steps=recomputes_steps), network


def make(setting: Setting, is_tiny: bool, device: torch.device) -> Model:
    """The setting's network of random weights."""
    sizes = {PIXART: TINY_PIXART if is_tiny else {}}.get(setting.network, TINY_UNET if is_tiny else {})
    with torch.device(device):
        return (pixart if setting.network == PIXART else sdxl)(setting.side, **sizes)


def training(setting: Setting, is_tiny: bool, device: torch.device, matrix_rate: float) -> Row:
    """Images a second, peak memory and ratios of one setting of training."""
    accelerator = Accelerator(mixed_precision="bf16")
    model = make(setting, is_tiny, device)
    with torch.device(device):
        stage, inner = chain_of(model, setting)
    config = TrainConfig(micro_batch_size=setting.batch_size, mixed_precision="bf16")
    trained = Trained.begin(stage.network, config)
    network, optimizer = accelerator.prepare(trained.network, trained.optimizer)
    trained = replace(trained, network=network, optimizer=optimizer)
    order = ShuffledOrder(0, setting.batch_size, setting.batch_size)
    seconds: dict[str, list[float]] = {"update": [], "chain": [], "bare": [], "diffusers": []}
    works = {
        "update": lambda: update(stage, trained, config, order, 0, accelerator),
        "chain": lambda: unrolled(stage, network, accelerator),
        "bare": lambda: bare(stage, accelerator),
        "diffusers": lambda: diffusers_loop(stage, accelerator),
    }
    peak = 0
    for turn in range((1 if is_tiny else ROUNDS) + 1):  # the first warms up
        for name in [*works]:
            is_reference = name in ("bare", "diffusers")
            if is_reference and setting.checkpointing in ("blocks", "both"):
                inner.disable_gradient_checkpointing()
            if name == "update":
                reset_peak_memory()
            try:
                elapsed = timed(works[name], device)
            except torch.OutOfMemoryError:
                if not is_reference:
                    raise
                works.pop(name)  # what the loop without checkpointing needs, this card does not have
                continue
            finally:
                trained.network.zero_grad(set_to_none=True)
                if is_reference and setting.checkpointing in ("blocks", "both"):
                    inner.enable_gradient_checkpointing()
            if name == "update":
                peak = peak_memory_bytes()
            if turn > 0:
                seconds[name].append(elapsed)
    times = {name: median(values) if values else None for name, values in seconds.items()}
    per_second = setting.batch_size / times["update"]
    flops = setting.num_steps * pass_flops(setting.network, setting.side, setting.trained, is_tiny)
    return {
        **asdict(setting),
        "images_per_second": per_second,
        "peak_memory_bytes": peak,
        "share_of_matrix_rate": per_second * flops / matrix_rate,
        "update_seconds": times["update"],
        "chain_to_bare": _ratio(times["chain"], times["bare"]),
        "chain_to_diffusers": _ratio(times["chain"], times["diffusers"]),
        "update_to_bare": _ratio(times["update"], times["bare"]),
    }


def sampling(setting: Setting, is_tiny: bool, device: torch.device, matrix_rate: float) -> Row:
    """Finished pictures a second, decoded, in bfloat16."""
    model = make(setting, is_tiny, device)
    network_of(model.pipeline).to(torch.bfloat16)
    with torch.device(device):
        vae = autoencoder(32 if is_tiny else 128).to(torch.bfloat16)
        stage, _ = chain_of(model, setting)
    generator = torch.Generator()

    @torch.inference_mode()
    def draw() -> None:
        x0 = stage.network(stage.noises(generator).bfloat16(), stage.cond)
        for _ in decode_parts(vae, x0):
            pass

    reset_peak_memory()
    seconds = median([timed(draw, device) for _ in range((1 if is_tiny else ROUNDS) + 1)][1:])
    return {
        **asdict(setting),
        "images_per_second": setting.batch_size / seconds,
        "peak_memory_bytes": peak_memory_bytes(),
    }


@cache
def pass_flops(network: str, side: int, trained: str, is_tiny: bool) -> int:
    """Multiplications and additions of one evaluation and its gradient for one picture, nothing recomputed."""
    setting, meta = Setting(network, side, num_steps=1, trained=trained, batch_size=1), torch.device("meta")
    model = make(setting, is_tiny, meta)
    with meta:
        stage, _ = chain_of(model, setting)
        dtype = torch.bfloat16 if trained == "lora" else torch.float32
        with FlopCounterMode(display=False) as counter:
            stage.denoise(stage.x0.to(dtype), torch.ones(1), stage.cond).float().square().mean().backward()
    return counter.get_total_flops()


def matrix_rate(device: torch.device, side: int) -> float:
    """Multiplications and additions a second of a bfloat16 product of two random matrices."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    out, repeats = torch.empty_like(a), 10

    def products() -> None:
        for _ in range(repeats):
            torch.mm(a, b, out=out)

    return repeats * 2 * side**3 / median([timed(products, device) for _ in range(6)][1:])


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds until the device has done it."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def free() -> None:
    """Give back what the last setting held."""
    gc.collect()
    torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b
