"""Trackers (TensorBoard, W&B, MLflow), which get pictures beside numbers and write inside the run folder."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from PIL import Image

from e2ed2.recipe.config import Config
from e2ed2.recipe.load import flatten


def begin_trackers(accelerator: Accelerator, config: Config) -> None:
    """Start those of `train.trackers`, the recipe as their settings. All processes have to call it."""
    if not config.train.trackers:
        return
    fields = flatten(config.model_dump(mode="json")).items()
    settings = {name: value if isinstance(value, int | float) else str(value) for name, value in fields}
    folder = (config.run.dir / "trackers").absolute()
    folder.mkdir(parents=True, exist_ok=True)  # W&B writes elsewhere without it
    own = {"wandb": {"dir": str(folder)}, "mlflow": {"logging_dir": (folder / "mlflow").as_uri()}}
    accelerator.init_trackers(config.run.dir.name, settings, own)


def log_pictures(trackers: Iterable[Any], path: Path, step: int) -> None:
    """A preview, [H, W, 3], to those trackers of accelerate that take pictures."""
    for tracker in trackers:
        if tracker.name == "mlflow":  # whose tracker has files in the place of pictures
            tracker.log_artifact(str(path), artifact_path="previews")
        elif tracker.name in ("tensorboard", "wandb"):
            with Image.open(path) as opened:
                picture = np.asarray(opened.convert("RGB"))
            more = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"previews": picture[None]}, step=step, **more)
