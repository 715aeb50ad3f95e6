"""The chain of the paper, stage name -> what its update does, and the data each of them reads."""

from collections.abc import Callable

import torch

from e2ed2.data.batch import ImageTextSet
from e2ed2.data.emoji import IMAGE_SIZE, load_emoji
from e2ed2.errors import UserError
from e2ed2.training.autoencoder import AutoencoderStage
from e2ed2.training.config import Config
from e2ed2.training.consistency import ConsistencyStage
from e2ed2.training.data_config import DataConfig
from e2ed2.training.denoising import DenoisingStage
from e2ed2.training.end_to_end import EndToEndStage
from e2ed2.training.step import Stage
from e2ed2.training.training_set import TrainingSet, load_user_data

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


def load_training_set(
    config: DataConfig, say: Callable[[str], None], progress: Callable[[int, int], None] | None = None
) -> TrainingSet:
    """The images and captions of `data.source`.

    Args:
        progress: called with (done, total) while emoji are drawn or images scanned; both are done once and kept.
    Raises:
        UserError: nothing usable, too large a share of bad items, or a size the source does not have.
    """
    if config.source != "emoji" or config.sources:
        return load_user_data(config, say, progress)
    if config.size != IMAGE_SIZE:
        raise UserError(
            f"data.size: {config.size}, but the emoji set has {IMAGE_SIZE} px images: set it to {IMAGE_SIZE}"
        )
    return load_emoji("train", progress)
