"""Whether what a recipe names is there, with nothing decoded, loaded or fetched: `e2ed2 train --dry-run`."""

from collections.abc import Sequence
from pathlib import Path

from accelerate.tracking import get_available_trackers

from e2ed2.models.folders.bundled import AUTOENCODER, BUNDLED
from e2ed2.models.folders.hub import is_hub_id, weights_file
from e2ed2.models.folders.index import read_index
from e2ed2.recipe.config import Config
from e2ed2.system.errors import UserError
from e2ed2.training.latents.training_set import open_sources
from e2ed2.training.stages.start import start_folder


def check_inputs(config: Config) -> list[str]:
    """Look at the data, the start, its adapters and trackers.

    Returns:
        What lies on the hub, which only the run itself fetches.
    Raises:
        UserError: something is not there, or is not what it should be.
    """
    open_sources(config.data)
    check_trackers(config.train.trackers)
    model, later = config.model, []
    others = [model.network, *model.lora, config.trajectory.teacher, config.consistency.teacher]
    for name in [model.path, *others]:
        if name is not None and is_of_hub(name):
            later.append(name)
    if model.path is not None and model.path not in (*later, *BUNDLED, AUTOENCODER):
        folder = start_folder(config)
        if config.stage != "base" and model.architecture is None:
            read_index(folder)
    if model.network is not None and model.network not in later:
        weights_file(model.network)
    for adapter in model.lora:
        if adapter not in later and not Path(adapter).exists():
            raise UserError(f"model.lora: {adapter}: no such file or folder; give one, or a hub id org/name")
    return later


def is_of_hub(name: str) -> bool:
    """Whether a name is `org/name`, or `org/name/file`, and no path."""
    return not Path(name).exists() and is_hub_id("/".join(name.split("/")[:2]))


def check_trackers(names: Sequence[str]) -> None:
    """Raise UserError where the package of one is not installed."""
    known = {str(tracker) for tracker in get_available_trackers()}
    if missing := [name for name in names if name not in known]:
        raise UserError(f"train.trackers: {missing[0]} is not installed; run `pip install {missing[0]}`")
