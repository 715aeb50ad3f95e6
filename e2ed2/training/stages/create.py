"""The chain of the paper: stage name -> what its update does."""

from collections.abc import Callable

import torch

from e2ed2.data.batch import ImageTextSet
from e2ed2.recipe.config import Config
from e2ed2.system.errors import UserError
from e2ed2.training.latents.training_set import TrainingSet
from e2ed2.training.stages.autoencoder import AutoencoderStage
from e2ed2.training.stages.consistency import ConsistencyStage
from e2ed2.training.stages.denoising import DenoisingStage
from e2ed2.training.stages.end_to_end import EndToEndStage
from e2ed2.training.step import Stage

STAGES: dict[str, Callable[..., Stage]] = {
    "autoencoder": AutoencoderStage,
    "base": DenoisingStage,
    "lcm": ConsistencyStage,
    "e2ed2": EndToEndStage,
}


def create_stage(config: Config, data: TrainingSet, device: torch.device, say: Callable[[str], None]) -> Stage:
    """The object that owns a stage's network, losses, preview and export.

    Raises:
        UserError: the stage cannot train on such a set, or from what `model.path` names.
    """
    if config.stage == "autoencoder" and not isinstance(data, ImageTextSet):
        raise UserError(
            "data: stage autoencoder holds its images in memory, 1 GiB of pixels; give fewer or a smaller data.size, "
            "from one source, with one caption each"
        )
    return STAGES[config.stage](config, data, device, say)
