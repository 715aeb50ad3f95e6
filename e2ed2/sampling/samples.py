"""Sample folders: `images/*.png`, `grid.png` and `manifest.json`. An image that is there is not made again.

A file's name ends in a hash of all that decides its pixels (weights, steps, prompt, seed, version), so that an
interrupted run goes on where it stopped, and images of another model are never taken for this one's.
"""

import hashlib
import json
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from e2ed2 import __version__
from e2ed2.models.families import network_of
from e2ed2.models.folders.bundled import resolve_model
from e2ed2.models.folders.inference import INFERENCE_FILE
from e2ed2.models.folders.pipeline import load_pipeline, load_transformers
from e2ed2.models.text import longest_tokenizer, too_long
from e2ed2.sampling.baselines import Baseline, PipelineSampler, read_baseline
from e2ed2.sampling.generate import Request, Sampler
from e2ed2.system.errors import UserError
from e2ed2.system.files import write_file
from e2ed2.system.pictures import image_grid, png_bytes, to_picture

MADE_BY = "e2ed2"
GRID_IMAGES, GRID_COLUMNS = 64, 8
MAX_SEED = 1_000_000  # of an evaluation

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to sample. `sha256` is `model_sha256` of its folder; `num_parameters` of what denoises."""

    name: str
    sha256: str
    num_inference_steps: int
    num_parameters: int
    sampler: Sampler | PipelineSampler
    tokenizer: Any
    max_sequence_length: int

    def too_long(self, prompts: list[str]) -> list[str]:
        """The prompts of which the text encoder sees only the beginning."""
        return too_long(prompts, self.tokenizer, self.max_sequence_length)


@dataclass(frozen=True)
class Samples:
    """images: uint8 [N, 3, H, W]; images_per_second: measured while making them, None if that was never timed."""

    images: Tensor
    images_per_second: float | None


def load_model(model: str, steps: int | None = None) -> LoadedModel:
    """A model on the GPU, or on the CPU where there is none.

    Args:
        model: a model folder, bundled model, baseline or hub id. Ours are sampled by the chain they were trained as,
            plain diffusers pipelines by their own call.
        steps: None for the number that the model was made for.
    Raises:
        UserError: no such model, a pickle in it, or steps outside its grid.
    """
    if steps is not None:
        check_range("--steps", steps, 1, 1000)
    baseline = read_baseline(model)
    folder = None if baseline else resolve_model(model)
    if folder is None or not (folder / INFERENCE_FILE).exists():
        return _load_plain(model, baseline or Baseline(model=str(folder)), steps)
    pipeline, inference = load_pipeline(folder, dtype=_text_dtype())
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    networks = load_transformers(folder, pipeline, inference)
    sampler = Sampler(pipeline, inference, steps, networks)
    return LoadedModel(
        name=model,
        sha256=model_sha256(folder),
        num_inference_steps=len(sampler.timesteps),
        num_parameters=sum(p.numel() for network in networks for p in network.parameters()),
        sampler=sampler,
        tokenizer=longest_tokenizer(pipeline),
        max_sequence_length=inference.max_sequence_length,
    )


def _text_dtype() -> torch.dtype | None:
    """Of text encoders: bf16 on a GPU, as in training there, where T5-XXL in float32 would take 19 GB."""
    return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else None


def _load_plain(model: str, baseline: Baseline, steps: int | None) -> LoadedModel:
    sampler = PipelineSampler(baseline, steps)
    tokenizer = sampler.pipeline.tokenizer
    return LoadedModel(
        name=model,
        sha256=hashlib.sha256(f"{model_sha256(sampler.folder)} {sampler.how_sha256}".encode()).hexdigest(),
        num_inference_steps=sampler.num_inference_steps,
        num_parameters=sum(p.numel() for p in network_of(sampler.pipeline).parameters()),
        sampler=sampler,
        tokenizer=tokenizer,
        max_sequence_length=tokenizer.model_max_length,
    )


def device_name() -> str:
    """What the figures on speed were measured on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def requests_for(prompts: list[str], num: int, seed: int) -> list[Request]:
    """`num` images for each prompt, with seeds `seed`, `seed` + 1, ...

    Raises:
        UserError: an empty prompt, or a number out of range.
    """
    check_range("--num", num, 1, 100_000)
    check_range("--seed", seed, 0, 2**62)
    for i, prompt in enumerate(prompts, 1):
        if not prompt.strip():
            raise UserError(f"prompt {i} is empty: say what to draw")
    return [Request(prompt, seed + i) for prompt in prompts for i in range(num)]


def check_range(name: str, value: int, low: int, high: int) -> None:
    """Raise UserError when a number is out of range."""
    if not low <= value <= high:
        raise UserError(f"{name} {value}: must be {low} to {high}")


def model_sha256(folder: Path) -> str:
    """Hex digest over weights, scheduler and `inference.json`, equal wherever the folder lies.

    Other settings do not count: diffusers writes paths into them, and the tokenizer its last call.
    """
    digest = hashlib.sha256()
    settings = [folder / "scheduler" / "scheduler_config.json", folder / "inference.json"]
    for path in sorted([*folder.rglob("*.safetensors"), *(path for path in settings if path.exists())]):
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
    check_range("--batch-size", batch_size, 1, 65_536)
    files = image_files(model, requests, out) if out else []
    rate = rate_before(claim_folder(out, "manifest.json", "grid.png"), model) if out else None
    images = {i: image for i, path in enumerate(files) if (image := read_png(path)) is not None}
    missing = [i for i in range(len(requests)) if i not in images]
    if out:
        write_manifest(out, *about_samples(model, requests, files, rate if images else None))
    started = time.perf_counter()
    for start in range(0, len(missing), batch_size):
        rows = missing[start : start + batch_size]
        for i, image in zip(rows, model.sampler([requests[i] for i in rows], batch_size), strict=True):
            images[i] = image
            if out:
                write_file(files[i], png_bytes(to_picture(image)))
        progress(len(images), len(requests))
        rate = (start + len(rows)) / (time.perf_counter() - started)
    result = Samples(torch.stack([images[i] for i in range(len(requests))]), rate)
    if out:
        write_manifest(out, *about_samples(model, requests, files, rate))
        write_grid(out, result.images)
    return result


def save_images(out: Path, name: str, images: Tensor, prompts: list[str]) -> None:
    """A sample folder of images that no sampler made, such as real ones; earlier ones of the same name go on.

    Args:
        name: stands as `model` in the manifest. images: uint8 [N, 3, H, W]; prompts: of each.
    """
    claim_folder(out, "manifest.json", "grid.png")
    rows: list[dict[str, Any]] = []
    for i, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        file = f"images/{i:06d}-{_words(prompt)}-{name}.png"
        write_file(out / file, png_bytes(to_picture(image)))
        rows.append({"file": file, "prompt": prompt, "seed": None})
    write_manifest(out, {"model": name}, rows)
    write_grid(out, images)


def claim_folder(out: Path, *names: str) -> dict[str, Any]:
    """Make a folder for samples and return the manifest of an earlier run in it, empty where there was none.

    Raises:
        UserError: it cannot be made, or holds one of `names` that e2ed2 did not write.
    """
    foreign = [name for name in names if (out / name).exists()]
    manifest = read_manifest(out)  # after that look: a process beside this one writes the manifest first
    if foreign and not manifest:
        raise UserError(f"--out {out}: {foreign[0]} there is not from e2ed2 and stays; name another folder")
    try:
        (out / "images").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror}); name another folder") from error
    return manifest


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest of a sample folder; empty where there is none, or none of ours."""
    try:
        manifest = json.loads((out / "manifest.json").read_text())
        return manifest if manifest["made_by"].startswith(MADE_BY) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def read_images(out: Path) -> list[tuple[dict[str, Any], Tensor]]:
    """(manifest row, uint8 [3, H, W]) of every image of a sample folder that is whole."""
    rows = read_manifest(out).get("images", [])
    return [(row, image) for row in rows if (image := read_png(out / row["file"])) is not None]


def read_png(path: Path) -> Tensor | None:
    """uint8 [3, H, W], or None when the file is missing or damaged."""
    try:
        with Image.open(path) as picture:
            return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    except (OSError, SyntaxError):  # PIL's word for a broken PNG
        return None


def image_files(model: LoadedModel, requests: list[Request], out: Path) -> list[Path]:
    """Where the image of each request lies in a sample folder; in the order of their names up to a million."""
    return [out / "images" / file_name(model, i, request) for i, request in enumerate(requests)]


def file_name(model: LoadedModel, index: int, request: Request) -> str:
    """Number, words of the prompt, and the hash of all that decides the pixels."""
    made_from = [model.sha256, model.num_inference_steps, request.prompt, request.seed, __version__]
    digest = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:10]
    return f"{index:06d}-{_words(request.prompt)}-{digest}.png"


def rate_before(manifest: dict[str, Any], model: LoadedModel) -> float | None:
    """Images per second of an earlier run of the same model at the same NFE; None for any other's."""
    same = (manifest.get("model_sha256"), manifest.get("nfe")) == (model.sha256, model.sampler.nfe)
    return manifest.get("images_per_second") if same else None


def _words(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40] or "image"


def about_samples(
    model: LoadedModel, requests: list[Request], files: list[Path], rate: float | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What the manifest says of the model, and of each image."""
    about = {
        "model": model.name,
        "model_sha256": model.sha256,
        "num_inference_steps": model.num_inference_steps,
        "nfe": model.sampler.nfe,
        "images_per_second": rate,
    }
    rows = [
        {"file": f"images/{path.name}", "prompt": request.prompt, "seed": request.seed}
        for path, request in zip(files, requests, strict=True)
    ]
    return about, rows


def write_manifest(out: Path, about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Before the images, so that the folder is known as ours, and once more after them."""
    manifest = {"made_by": f"{MADE_BY} {__version__}", **about, "images": rows}
    write_file(out / "manifest.json", (json.dumps(manifest, indent=1) + "\n").encode())


def write_grid(out: Path, images: Tensor) -> None:
    """`grid.png` of the first images."""
    write_file(out / "grid.png", png_bytes(image_grid(images[:GRID_IMAGES], GRID_COLUMNS)))
