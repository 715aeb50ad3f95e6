"""Recipes of today's models at full size, with random weights: an update's peak beside what `e2ed2 plan` counts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator

from benchmarks.chain import Chain
from benchmarks.gpu.speed import Row, timed
from e2ed2.data.order import ShuffledOrder
from e2ed2.models.autoencoder import cell_side
from e2ed2.models.families import family_of, fix_shift, network_of
from e2ed2.models.folders.configs import configs_of
from e2ed2.models.folders.inference import Inference
from e2ed2.models.lora.adapter import lora_copies
from e2ed2.models.memory.counts import bare_pipeline, full_condition
from e2ed2.models.memory.frozen import freeze
from e2ed2.models.memory.needs import needs
from e2ed2.models.scheduler import few_step_scheduler
from e2ed2.recipe.config import Config
from e2ed2.recipe.load import load_config
from e2ed2.recipe.shipped import recipe_file
from e2ed2.training.log import peak_memory_bytes, reset_peak_memory
from e2ed2.training.step import Trained, update

RECIPES = (
    "sdxl_lora", "today/sd35_medium", "today/flux2_klein", "today/z_image_turbo", "today/flux1_schnell",
    "today/qwen_image_lightning",
)  # fmt: skip
ALONE = [  # what is decoded, and the start beside, are left out, of the count too
    "objective.lpips.weight=0", "objective.latent_lpips.weight=0", "objective.keep.weight=0",
    "train.gradient_accumulation_steps=1",
]  # fmt: skip


def chain_of(config: Config, folder: Path, device: torch.device) -> Chain:
    """A LoRA on a recipe's frozen network of random weights."""
    side, steps, trajectory = config.data.size, config.trajectory.num_inference_steps, config.trajectory
    with half():
        pipeline = bare_pipeline(folder, device)
    family, network = family_of(pipeline), network_of(pipeline)
    fix_shift(pipeline, side, side, steps)
    solver, scale = trajectory.solver or "lcm", trajectory.guidance_scale or 1.0
    pipeline.register_modules(scheduler=few_step_scheduler(solver, pipeline.scheduler))
    if config.model.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    freeze(network, config.model.frozen_weights, device)
    adapter = lora_copies(network, 1, trajectory.lora_rank, family.lora_targets)[0].to(device)
    call = Inference(solver, steps, scale, height=side, width=side)
    rows, cells = config.train.micro_batch_size, side // cell_side(pipeline.vae)
    return Chain(
        pipeline,
        adapter,
        [call.grid(k) for k in range(1, steps + 1)],
        torch.randn(rows, family.channels(network.config), cells, cells, device=device),
        full_condition(pipeline).select(torch.zeros(rows, dtype=torch.long)).to(device),
        recomputes_steps=trajectory.gradient_checkpointing,
        solver=solver,
        guidance_scale=scale,
    )


def measured(config: Config, folder: Path, device: torch.device) -> Row:
    """Seconds of an update and its peak, after a first one."""
    accelerator = Accelerator(mixed_precision="bf16")
    stage = chain_of(config, folder, device)
    trained = Trained.begin(stage.network, config.train)
    order = ShuffledOrder(0, config.train.micro_batch_size, config.train.micro_batch_size)
    reset_peak_memory()
    seconds = [timed(lambda: update(stage, trained, config.train, order, 0, accelerator), device) for _ in range(2)]
    return {
        "images_per_second": config.train.micro_batch_size / seconds[1],
        "peak_memory_bytes": peak_memory_bytes(),
        "counted_bytes": needs(config, folder, half=True).peak_memory_bytes,
    }


def of_recipe(name: str, device: torch.device) -> Row:
    """`measured` of a recipe that ships, whose configs do too."""
    config = load_config(recipe_file(Path(name)), ALONE)
    return measured(config, configs_of(str(config.model.path)), device)


@contextmanager
def half() -> Iterator[None]:
    """Networks that are made meanwhile are in bf16."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
