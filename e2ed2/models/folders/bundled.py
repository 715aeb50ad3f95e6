"""The models that ship with e2ed2: transformer and autoencoder in half precision, assembled on first use.

`weights/NAME/` holds config, weights, `inference.json`, card and evaluation figures; the text encoder comes from its
own package, so that a pipeline folder is put together once per version in the user's cache folder.
"""

import hashlib
import os
from pathlib import Path

from e2ed2.models.folders.hub import download, is_hub_id
from e2ed2.models.folders.misnamed import ONE_FILE, is_one_file, refuse_file, refuse_run
from e2ed2.models.one_file.unpack import unpacked
from e2ed2.system.errors import UserError
from e2ed2.system.files import atomic_folder, locked
from e2ed2.system.paths import cache_dir

WEIGHTS = Path(__file__).parents[2] / "weights"
AUTOENCODER = "emoji-autoencoder"
BUNDLED = ("emoji-base", "emoji-lcm", "emoji-e2ed2")
FILES = ONE_FILE | {".json", ".yaml", ".yml"}  # no hub id ends so


def resolve_model(
    name_or_path: str | Path, revision: str | None = None, variant: str | None = None, config: str | None = None
) -> Path:
    """The folder of a model: a path, a bundled model's name (assembled on first use), or a hub id (then fetched).

    Of a whole model in one safetensors file: the folder that is made of it on first use.

    What exists is a path, whatever it looks like.

    Args:
        revision, variant: of a hub model; a folder has its files as they are. config: of a one-file checkpoint, a
            model folder or hub id of the same kind.
    Raises:
        UserError: none of the three, a path that is no model's, or the hub does not give it.
    """
    name, path = str(name_or_path), Path(name_or_path)
    if is_one_file(path):
        return unpacked(path, config)
    if config is not None:
        raise UserError(f"model.config: {config}, but model.path={name} is no one-file checkpoint: leave it out")
    if name in BUNDLED and not (WEIGHTS / name / "inference.json").is_file():
        recipe = f"recipes/emoji/{name.removeprefix('emoji-')}.yaml"
        raise UserError(f"model '{name}': this version ships no weights for it; train it with `e2ed2 train {recipe}`")
    if name in BUNDLED:
        return _assembled(name)
    if name == AUTOENCODER:
        return WEIGHTS / AUTOENCODER
    if is_hub_id(name) and path.suffix not in FILES and not os.path.lexists(name):
        return download(name, revision, variant)
    if revision is not None:
        raise UserError(f"model.revision: {revision}, but model.path={name} is no hub id org/name: leave it out")
    if path.is_file():
        refuse_file(path)
    if not (name and path.is_dir()):  # a path without letters is the folder we are in
        bundled = ", ".join(BUNDLED)
        what = "file" if path.suffix in FILES else "folder"
        raise UserError(f"model '{name}': no such {what}; give a model folder, a hub id org/name, or one of {bundled}")
    refuse_run(path)
    return path


def _assembled(name: str) -> Path:
    target = cache_dir() / "models" / f"{name}-{_version(name)}"
    if not target.is_dir():
        target.parent.mkdir(exist_ok=True)
        with locked(target.parent):  # the first of several processes does it
            if not target.is_dir():
                _assemble(name, target)
    return target


def _assemble(name: str, target: Path) -> None:
    from diffusers import PixArtTransformer2DModel

    from e2ed2.models.folders.inference import inference_of
    from e2ed2.models.folders.parts import load_network
    from e2ed2.models.folders.pipeline import assemble, load_autoencoder, save_pipeline
    from e2ed2.models.scheduler import noise_scheduler

    source = WEIGHTS / name
    inference = inference_of(source / "inference.json", {}, {})
    transformer = load_network(PixArtTransformer2DModel, source)
    scheduler = noise_scheduler(inference.solver, "v_prediction")
    autoencoder = load_autoencoder(WEIGHTS / AUTOENCODER)
    with atomic_folder(target) as folder:
        save_pipeline(assemble(transformer, autoencoder, scheduler), inference, folder)


def _version(name: str) -> str:
    digest = hashlib.sha256(Path(__file__).with_name("pipeline.py").read_bytes())
    for folder in (WEIGHTS / name, WEIGHTS / AUTOENCODER):
        for path in sorted(
            [*folder.glob("*.safetensors"), *folder.glob("config.json"), *folder.glob("inference.json")]
        ):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
