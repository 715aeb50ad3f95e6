"""What the launcher asks for, as accelerate takes it: DDP, or FSDP2 where it says so."""

import os

from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    ProjectConfiguration,
    parse_flag_from_env,
)
from torch.distributed.fsdp import MixedPrecisionPolicy

from e2ed2.recipe.config import Config
from e2ed2.system.errors import UserError
from e2ed2.system.launched import num_started
from e2ed2.training.inputs import check_trackers

NOT_TAKEN = {  # what of FSDP the recipe says, or nobody has tried
    "fsdp_activation_checkpointing": "set gradient_checkpointing of model and trajectory in the recipe",
    "fsdp_offload_params": "leave it out, and run more processes or train a LoRA (trajectory.parameters)",
}


def create_accelerator(config: Config) -> Accelerator:
    """Accelerate as the launcher and the recipe ask for it.

    Raises:
        UserError: a precision or a way of sharding that is not possible here.
    """
    mixed_precision, trackers = config.train.mixed_precision, config.train.trackers
    if mixed_precision == "fp16" and PartialState().device.type == "cpu":
        raise UserError("train.mixed_precision: fp16 needs a GPU, and there is none; use bf16 or no")
    check_trackers(trackers)
    try:
        folders = ProjectConfiguration(str(config.run.dir), logging_dir=str(config.run.dir / "trackers"))
        trajectory = config.trajectory  # sets of steps, and grids, that an update did not run have no gradient
        has_idle_parts = trajectory.has_set_per_step or trajectory.time_grid != "fixed"
        accelerator = Accelerator(
            mixed_precision=mixed_precision,
            log_with=trackers or None,
            project_config=folders,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=has_idle_parts)],
        )
    except ValueError as error:
        raise UserError(f"train.mixed_precision: {mixed_precision} is not possible here ({error})") from error
    if is_in_shards():
        _check_shards(config)
        _use_plugin(accelerator)
    return accelerator


def is_in_shards() -> bool:
    """Whether each of several processes holds a part of what is trained."""
    return parse_flag_from_env("ACCELERATE_USE_FSDP") and num_started() > 1


def check_launch() -> None:
    """Raise UserError where the launcher asks for a way of sharding that we do not take."""
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        raise UserError(
            "accelerate launch --use_deepspeed: not supported, as DeepSpeed clips and steps within its backward pass, "
            "where nothing can be checked first, and takes one model; `--use_fsdp --fsdp_version 2 "
            "--fsdp_reshard_after_forward false` shards what ZeRO-2 does"
        )
    if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise UserError(f"accelerate launch --use_fsdp: fsdp_version {version}, but it must be 2: `--fsdp_version 2`")
    for option, remedy in NOT_TAKEN.items():
        if parse_flag_from_env(option.upper()):
            raise UserError(f"accelerate launch --{option} true: not supported; {remedy}")
    # By default `accelerate launch` has all processes but the first load nothing, text encoders too, which stay whole.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"


def _check_shards(config: Config) -> None:
    held, optimizer = config.model.frozen_weights, config.train.optimizer
    if held != "whole":
        raise UserError(
            f"model.frozen_weights: {held}, but shards are of whole weights, and each process would hold all of these: "
            "set whole, or leave out --use_fsdp"
        )
    if optimizer != "adamw":
        raise UserError(f"train.optimizer: {optimizer} cannot be taken in shards; set adamw, or leave out --use_fsdp")


def _use_plugin(accelerator: Accelerator) -> None:
    if accelerator.distributed_type == DistributedType.MULTI_CPU:  # accelerate goes on with DDP without a word
        for state in (PartialState, AcceleratorState):
            state._shared_state["distributed_type"] = DistributedType.FSDP
        AcceleratorState._shared_state["fsdp_plugin"] = FullyShardedDataParallelPlugin()
    # Autocast decides on precision, as it does with DDP: the plugin's own would round states, timesteps and noise too.
    accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()
