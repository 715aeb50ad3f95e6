"""The chain of the paper, stage name -> what its update does, and the data each of them reads."""

from collections.abc import Callable

import torch

from e2ed2.data.batch import ImageTextSet
from e2ed2.data.emoji import IMAGE_SIZE, load_emoji
from e2ed2.data.sources import FolderSource
from e2ed2.errors import UserError
from e2ed2.training.autoencoder import AutoencoderStage
from e2ed2.training.config import Config, DataConfig
from e2ed2.training.consistency import ConsistencyStage
from e2ed2.training.denoising import DenoisingStage
from e2ed2.training.end_to_end import EndToEndStage
from e2ed2.training.step import Stage

STAGES: dict[str, Callable[..., Stage]] = {
    "autoencoder": AutoencoderStage,
    "base": DenoisingStage,
    "lcm": ConsistencyStage,
    "e2ed2": EndToEndStage,
}


def create_stage(config: Config, data: ImageTextSet, device: torch.device, say: Callable[[str], None]) -> Stage:
    """The object that owns a stage's network, losses, preview and export."""
    return STAGES[config.stage](config, data, device, say)


def load_training_set(config: DataConfig, say: Callable[[str], None]) -> ImageTextSet:
    """The images and captions of `data.source`.

    Raises:
        UserError: nothing usable, too large a share of bad items, or a size the source does not have.
    """
    if config.source == "emoji":
        if config.size != IMAGE_SIZE:
            raise UserError(
                f"data.size: {config.size}, but the emoji set has {IMAGE_SIZE} px images: set it to {IMAGE_SIZE}"
            )
        return load_emoji("train")
    assert config.path is not None  # check_config
    data = FolderSource(config.path, config.size, config.max_bad_fraction).load()
    for item in data.skipped:
        say(f"skipped {item}")
    return data
