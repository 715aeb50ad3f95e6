"""Sample folders: `images/*.png`, `grid.png` and `manifest.json`. An image that is there is not made again.

A file's name ends in a hash of all that decides its pixels (weights, steps, prompt, seed, version), so that an
interrupted run goes on where it stopped, and images of another model are never taken for this one's.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from e2ed2 import __version__
from e2ed2.errors import UserError
from e2ed2.evaluation.generate import Request, Sampler
from e2ed2.models.bundled import resolve_model
from e2ed2.models.pipeline import load_pipeline
from e2ed2.training.log import image_grid

MADE_BY = "e2ed2"
GRID_IMAGES, GRID_COLUMNS = 64, 8

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to sample. `sha256` is of its weights and settings, file names included."""

    name: str
    sha256: str
    num_inference_steps: int
    sampler: Sampler


@dataclass(frozen=True)
class Samples:
    """images: uint8 [N, 3, H, W]; images_per_second: measured while making them, None if that was never timed."""

    images: Tensor
    images_per_second: float | None


def load_model(model: str, steps: int | None = None) -> LoadedModel:
    """A model folder or bundled model on the GPU, or on the CPU where there is none.

    Args:
        steps: None for the number that the model was made for.
    Raises:
        UserError: no such model, a pickle in it, or steps outside its grid.
    """
    if steps is not None and steps < 1:
        raise UserError(f"--steps {steps}: must be 1 or more")
    folder = resolve_model(model)
    pipeline, inference = load_pipeline(folder)
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    sampler = Sampler(pipeline, inference, steps)
    return LoadedModel(model, model_sha256(folder), len(sampler.timesteps), sampler)


def model_sha256(folder: Path) -> str:
    """Hex digest over the weights and JSON settings of a model folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json")):
        digest.update(str(path.relative_to(folder)).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def make_samples(
    model: LoadedModel,
    requests: list[Request],
    out: Path | None = None,
    *,
    batch_size: int = 32,
    progress: Progress = lambda done, total: None,
) -> Samples:
    """One image per request; with `out`, kept there batch by batch and taken from there when run again.

    Raises:
        UserError: `out` holds somebody else's files, or cannot be written.
    """
    files = [out / "images" / _file_name(model, i, r) for i, r in enumerate(requests)] if out else []
    images = {i: image for i, path in enumerate(files) if (image := _read_png(path)) is not None}
    rate = _claim(out).get("images_per_second") if out and images else _claim(out) and None
    missing = [i for i in range(len(requests)) if i not in images]
    if out:
        _write_manifest(out, model, requests, files, rate)
    started = time.perf_counter()
    for start in range(0, len(missing), batch_size):
        rows = missing[start : start + batch_size]
        for i, image in zip(rows, model.sampler([requests[i] for i in rows], batch_size), strict=True):
            images[i] = image
            if out:
                write_png(image, files[i])
        progress(len(images), len(requests))
        rate = (start + len(rows)) / (time.perf_counter() - started)
    result = Samples(torch.stack([images[i] for i in range(len(requests))]), rate)
    if out:
        _write_manifest(out, model, requests, files, rate)
        with writing(out / "grid.png") as temporary:
            image_grid(result.images[:GRID_IMAGES], GRID_COLUMNS).save(temporary, format="PNG")
    return result


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest of a sample folder; empty where there is none, or none of ours."""
    try:
        manifest = json.loads((out / "manifest.json").read_text())
        return manifest if manifest["made_by"].startswith(MADE_BY) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
