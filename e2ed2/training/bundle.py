"""Makes a finished run one of the models that ship with e2ed2: half precision, a card."""

import sys
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import torch

from e2ed2.models.families import family_of
from e2ed2.models.folders.bundled import AUTOENCODER, WEIGHTS
from e2ed2.models.folders.pipeline import forget_origin, load_autoencoder, load_pipeline
from e2ed2.recipe.load import load_config
from e2ed2.recipe.objective import OBJECTIVES
from e2ed2.system.errors import UserError
from e2ed2.system.readers.json_file import read_typed
from e2ed2.system.readers.typed import Record
from e2ed2.training.log import read_metrics

if TYPE_CHECKING:
    from diffusers import ModelMixin


class _Software(Record):
    torch: str
    diffusers: str


def bundle(run: Path, name: str, hardware: str) -> Path:
    """Copy a finished run's network into `weights/NAME` in half precision, with a card; evaluations there stay.

    Args:
        run: the run folder of the stage. hardware: what it ran on, for the card.
    """
    target = WEIGHTS / name
    if name == AUTOENCODER:
        _save_half(load_autoencoder(run / "model"), target)
    else:
        pipeline, inference = load_pipeline(run / "model")
        _save_half(pipeline.transformer, target)
        (target / "inference.json").write_text(inference.to_json(family_of(pipeline)))
    (target / "README.md").write_text(card(run, name, hardware))
    return target


def card(run: Path, name: str, hardware: str) -> str:
    """What a bundled model is and how it came about, from its run folder.

    Raises:
        UserError: a file of a finished run is missing or damaged.
    """
    config = load_config(run / "config.yaml")
    software = read_typed(run / "environment.json", _Software, "environment", "name the folder of a finished run")
    rows = read_metrics(run / "metrics.jsonl")
    if not rows:
        raise UserError(f"{run / 'metrics.jsonl'}: no rows; name the folder of a finished run")
    seconds = sum(row["images_seen"] - last["images_seen"] for last, row in pairwise(rows)) / mean(
        row["images_per_second"] for row in rows
    )
    last = rows[-max(len(rows) // 10, 1) :]  # chains differ in length, and what they are judged by
    names = [k for k in last[-1] if k in (*OBJECTIVES, "denoising", "consistency")]
    losses = {k: mean(row[k] for row in last) for k in names}
    return f"""# {name}

| | |
|---|---|
| made by | `e2ed2 train recipes/emoji/{config.stage}.yaml` |
| seed | {config.train.seed} |
| updates | {rows[-1]["global_step"]:,} ({rows[-1]["images_seen"]:,} captions) |
| hardware | {hardware}, about {seconds / 3600:.2f} hours |
| software | torch {software.torch}, diffusers {software.diffusers} |
| data | emoji set, train split: Twemoji (CC-BY-4.0), OpenMoji (CC-BY-SA-4.0); see docs/data.md |
| losses, mean of the last tenth | {", ".join(f"{k} {v:.4f}" for k, v in losses.items())} |
| metrics | `evaluation/*.json`, each with its command; docs/results.md |

Weights in half precision. A benchmark model for 64 px emoji; it knows nothing else. Its images are synthetic.
"""


def _save_half(network: "ModelMixin", target: Path) -> None:
    network.to(torch.float16).save_pretrained(target, safe_serialization=True)
    forget_origin(target)


if __name__ == "__main__":  # python -m e2ed2.training.bundle RUN_FOLDER NAME HARDWARE
    print(bundle(Path(sys.argv[1]), *sys.argv[2:]))
