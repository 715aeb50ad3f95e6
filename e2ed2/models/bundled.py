"""The models that ship with e2ed2: transformer and autoencoder in half precision, assembled on first use.

`weights/NAME/` holds config, weights, `inference.json`, card and evaluation figures; the text encoder comes from its
own package, so that a pipeline folder is put together once per version in the user's cache folder.
"""

import hashlib
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from e2ed2.errors import UserError
from e2ed2.paths import cache_dir

if TYPE_CHECKING:
    from diffusers import ModelMixin

WEIGHTS = Path(__file__).parent.parent / "weights"
AUTOENCODER = "emoji-autoencoder"
BUNDLED = ("emoji-base", "emoji-lcm", "emoji-e2ed2")


def resolve_model(name_or_path: str | Path) -> Path:
    """The folder of a model: a path as it is, or a bundled model's name, assembled in the cache on first use.

    Raises:
        UserError: neither a folder nor a bundled model.
    """
    name = str(name_or_path)
    if name in BUNDLED:
        return _assembled(name)
    if name == AUTOENCODER:
        return WEIGHTS / AUTOENCODER
    if not Path(name).is_dir():
        raise UserError(f"model '{name}': no such folder; give a model folder or one of {', '.join(BUNDLED)}")
    return Path(name)


def _assembled(name: str) -> Path:
    from diffusers import PixArtTransformer2DModel

    from e2ed2.models.pipeline import Inference, assemble, load_autoencoder, noise_scheduler, save_pipeline

    source = WEIGHTS / name
    target = cache_dir() / "models" / f"{name}-{_version(name)}"
    if (target / "inference.json").is_file():  # written last
        return target
    inference = Inference(**json.loads((source / "inference.json").read_text()))
    transformer = PixArtTransformer2DModel.from_pretrained(source, torch_dtype=torch.float32, use_safetensors=True)
    scheduler = noise_scheduler(inference.solver, "v_prediction")
    autoencoder = load_autoencoder(WEIGHTS / AUTOENCODER)
    temporary = target.with_name(target.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    save_pipeline(assemble(transformer, autoencoder, scheduler), inference, temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    return target


def _version(name: str) -> str:
    digest = hashlib.sha256()
    for folder in (WEIGHTS / name, WEIGHTS / AUTOENCODER):
        for path in sorted(
            [*folder.glob("*.safetensors"), *folder.glob("config.json"), *folder.glob("inference.json")]
        ):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def bundle(model: Path, name: str) -> Path:
    """Copy a trained model's network into `weights/NAME` in half precision.

    Args:
        model: the model folder of a run: a pipeline, or an autoencoder for `emoji-autoencoder`.
    """
    from e2ed2.models.pipeline import load_autoencoder, load_pipeline

    target = WEIGHTS / name
    if name == AUTOENCODER:
        _save_half(load_autoencoder(model), target)
        return target
    pipeline, inference = load_pipeline(model)
    _save_half(pipeline.transformer, target)
    (target / "inference.json").write_text(json.dumps(asdict(inference), indent=1) + "\n")
    return target


def _save_half(network: "ModelMixin", target: Path) -> None:
    network.to(torch.float16).save_pretrained(target, safe_serialization=True)


if __name__ == "__main__":  # python -m e2ed2.models.bundled MODEL_FOLDER NAME
    print(bundle(Path(sys.argv[1]), sys.argv[2]))
