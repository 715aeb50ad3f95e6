"""Whether what a recipe names is there; no image is decoded, no model loaded or fetched: `e2ed2 train --dry-run`."""

from collections.abc import Sequence
from pathlib import Path

from accelerate.tracking import get_available_trackers

from e2ed2.models.folders.bundled import AUTOENCODER, BUNDLED, resolve_model
from e2ed2.models.folders.hub import is_hub_id
from e2ed2.models.folders.index import read_index
from e2ed2.models.folders.misnamed import GGUF, is_one_file
from e2ed2.models.lora.fuse import at_scale
from e2ed2.models.losses.plugin import PlugIn
from e2ed2.models.one_file.unpack import config_of
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
    check_trackers(config.train.trackers)
    if config.objective.plugin.function is not None:
        PlugIn(config.objective.plugin.function)
    taken = next((path for path in (config.run.dir, *config.run.dir.parents) if path.exists()), Path())
    if not taken.is_dir():
        raise UserError(f"run.dir {config.run.dir}: {taken} is a file; name a folder")
    model = config.model
    later = [str(source.path) for source in (config.data, *config.data.sources) if source.source == "hub"]
    if not later:
        open_sources(config.data)
    for path in (model.path, config.trajectory.teacher, config.consistency.teacher):
        if path is None or path in (*BUNDLED, AUTOENCODER):
            continue
        if not Path(path).exists() and is_hub_id(path):
            later.append(path)
            continue
        if is_one_file(Path(path)):
            config_of(Path(path), model.config if path == model.path else None)
            continue
        folder = start_folder(config) if path == model.path else resolve_model(path)
        if path != model.path or (config.stage != "base" and model.architecture is None):
            read_index(folder)
    adapters = [name for name, _ in map(at_scale, model.lora)]
    for name in (model.network, *adapters):
        if name is None or Path(name).exists():
            continue
        if not (is_hub_id(name) and name in adapters or _is_file_of_hub(name)):
            field = "model.lora" if name in adapters else "model.network"
            raise UserError(f"{field}: {name}: no such file or folder; give one, or org/name/file of the hub")
        later.append(name)
    return later


def _is_file_of_hub(name: str) -> bool:
    """Whether a name is `org/name/file`."""
    *repository, file = name.split("/", 2)
    return file.endswith((".safetensors", GGUF)) and is_hub_id("/".join(repository))


def check_trackers(names: Sequence[str]) -> None:
    """Raise UserError where the package of one is not installed."""
    known = {str(tracker) for tracker in get_available_trackers()}
    if missing := [name for name in names if name not in known]:
        raise UserError(f"train.trackers: {missing[0]} is not installed; run `pip install {missing[0]}`")
