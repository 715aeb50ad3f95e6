"""The models that ship with e2ed2: transformer and autoencoder in half precision, assembled on first use.

`weights/NAME/` holds config, weights, `inference.json`, card and evaluation figures; the text encoder comes from its
own package, so that a pipeline folder is put together once per version in the user's cache folder.
"""

import hashlib
import json
import shutil
import sys
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import torch
import yaml

from e2ed2.errors import UserError
from e2ed2.paths import cache_dir
from e2ed2.training.log import read_metrics

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
    if name in BUNDLED and not (WEIGHTS / name / "inference.json").is_file():
        recipe = f"recipes/emoji/{name.removeprefix('emoji-')}.yaml"
        raise UserError(f"model '{name}': this version ships no weights for it; train it with `e2ed2 train {recipe}`")
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


def bundle(run: Path, name: str, hardware: str) -> Path:
    """Copy a finished run's network into `weights/NAME` in half precision, with a card; evaluations there stay.

    Args:
        run: the run folder of the stage. hardware: what it ran on, for the card.
    """
    from e2ed2.models.pipeline import load_autoencoder, load_pipeline

    target = WEIGHTS / name
    if name == AUTOENCODER:
        _save_half(load_autoencoder(run / "model"), target)
    else:
        pipeline, inference = load_pipeline(run / "model")
        _save_half(pipeline.transformer, target)
        (target / "inference.json").write_text(json.dumps(asdict(inference), indent=1) + "\n")
    (target / "README.md").write_text(card(run, name, hardware))
    return target


def card(run: Path, name: str, hardware: str) -> str:
    """What a bundled model is and how it came about, from its run folder."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    environment = json.loads((run / "environment.json").read_text())
    rows = read_metrics(run / "metrics.jsonl")
    seconds = sum(row["images_seen"] - last["images_seen"] for last, row in pairwise(rows)) / mean(
        row["images_per_second"] for row in rows
    )
    losses = {k: v for k, v in rows[-1].items() if k in (*config["objective"], "denoising", "consistency")}
    return f"""# {name}

| | |
|---|---|
| made by | `e2ed2 train recipes/emoji/{config["stage"]}.yaml` |
| seed | {config["train"]["seed"]} |
| updates | {rows[-1]["global_step"]:,} ({rows[-1]["images_seen"]:,} captions) |
| hardware | {hardware}, about {seconds / 3600:.2f} hours |
| software | torch {environment["torch"]}, diffusers {environment["diffusers"]} |
| data | emoji set, train split: Twemoji (CC-BY-4.0), OpenMoji (CC-BY-SA-4.0); see docs/data.md |
| last losses | {", ".join(f"{k} {v:.4f}" for k, v in losses.items())} |
| metrics | `evaluation/*.json`, each with its command; docs/results.md |

Weights in half precision. A benchmark model for 64 px emoji; it knows nothing else. Its images are synthetic.
"""


def _save_half(network: "ModelMixin", target: Path) -> None:
    from e2ed2.models.pipeline import forget_origin

    network.to(torch.float16).save_pretrained(target, safe_serialization=True)
    forget_origin(target)


if __name__ == "__main__":  # python -m e2ed2.models.bundled RUN_FOLDER NAME HARDWARE
    print(bundle(Path(sys.argv[1]), *sys.argv[2:]))
