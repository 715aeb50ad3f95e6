"""The pipeline that a few-step stage starts from, and in what precision."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from e2ed2.models.families import family_of
from e2ed2.models.folders.bundled import resolve_model
from e2ed2.models.folders.inference import Inference
from e2ed2.models.folders.pipeline import load_pipeline, replace_network, save_pipeline
from e2ed2.models.lora.fuse import fuse
from e2ed2.models.new import new_pipeline
from e2ed2.models.scheduler import few_step_scheduler, few_step_solver, flow_scheduler, is_flow
from e2ed2.recipe.config import Config
from e2ed2.samplers import NOISY_SOLVERS
from e2ed2.system.errors import UserError


def half_of(config: Config) -> torch.dtype | None:
    """What is not trained is kept in; None: in float32."""
    is_half = config.train.mixed_precision == "bf16" and config.stage != "base"
    return torch.bfloat16 if is_half else None


def keeps_text(config: Config) -> bool:
    """Whether the text encoders are those of the start's files, so that a run need not load them to know them."""
    return config.stage != "base" and config.model.architecture is None and not config.model.lora


def start_folder(config: Config) -> Path:
    """Where `model.path` lies, fetched if need be."""
    return resolve_model(str(config.model.path), config.model.revision, config.model.variant, config.model.config)


def load_start(
    config: Config,
    side: int,
    dtype: torch.dtype | None = None,
    *,
    network_dtype: torch.dtype | None = None,
    with_text: bool = True,
) -> tuple[Any, Inference]:
    """The start, made for images of `side` pixels.

    Args:
        dtype: of its text encoders. network_dtype: of its network. Both, and all else, are float32 by default.
        with_text: False leaves them out, if `keeps_text`.
    Raises:
        UserError: no such model, or its autoencoder or weights are of a kind that cannot be trained with.
    """
    model, steps = config.model, config.trajectory.num_inference_steps
    if model.architecture is not None:  # from scratch
        pipeline = new_pipeline(str(model.path), model.architecture, "lcm")
        return pipeline, Inference("lcm", steps, 1.0, height=side, width=side)
    with_text = with_text or not keeps_text(config)
    pipeline, start = load_pipeline(
        start_folder(config), model.variant, dtype, network_dtype, with_text=with_text, side=side, num_steps=steps
    )
    if model.network is not None:
        replace_network(pipeline, model.network)
    fuse(pipeline, model.lora)
    if (shift := config.trajectory.shift) is not None:
        if not is_flow(pipeline.scheduler):
            kind = type(pipeline).__name__
            raise UserError(f"trajectory.shift: {shift:g}, but a {kind} is no flow model; leave it out")
        pipeline.register_modules(scheduler=flow_scheduler(shift))
    return pipeline, start


def few_step_call(config: Config, pipeline: Any, start: Inference) -> Inference:
    """The few-step sampler that is trained, and exported: the recipe's, and the start's own where it does not say."""
    trajectory = config.trajectory
    steps, solver = trajectory.num_inference_steps, trajectory.solver or few_step_solver(pipeline.scheduler)
    if solver in NOISY_SOLVERS and not family_of(pipeline).takes_noise:
        if trajectory.solver is not None:
            kind = type(pipeline).__name__
            raise UserError(f"trajectory.solver: {solver}, but the call of a {kind} gives its noise no seed: set ddim")
        solver = "ddim"
    scale = trajectory.guidance_scale or (start.guidance_scale if start.embedded_guidance else 1.0)
    if scale > 1 and (why := family_of(pipeline).why_no_guidance(pipeline)):
        raise UserError(f"trajectory.guidance_scale: {scale:g}, but {why}: set it to 1")
    call = replace(start.with_grids({}), solver=solver, num_inference_steps=steps, guidance_scale=scale)
    grids = start.own_grids if start.solver == solver else {}
    grids |= {len(grid): grid for grid in trajectory.timesteps}
    return call.with_grids({k: grid for k, grid in grids.items() if not trajectory.has_set_per_step or k == steps})


def export_start(config: Config, folder: Path) -> None:
    """What a run starts from as a model folder with the few-step sampler that it trains: the row before the training.

    Raises:
        UserError: as `load_start`.
    """
    pipeline, start = load_start(config, config.data.size)
    inference = few_step_call(config, pipeline, start)
    pipeline.register_modules(scheduler=few_step_scheduler(inference.solver, pipeline.scheduler))
    save_pipeline(pipeline, inference, folder)
