"""Teacher pairs: noise, and the sample that a teacher's deterministic sampler makes of it (arXiv:2101.02388).

Drawn independently, noise and an image have nothing to do with each other, and the best answer to a noise under L2 is
the mean of all images. Of a pair the image is a function of the noise, and the best answer under any distance is that
image. Pairs take the place of the training images: the student learns the teacher's distribution, with its faults.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from e2ed2.models.denoiser import denoiser_of
from e2ed2.models.families import family_of, network_of
from e2ed2.models.folders.bundled import resolve_model
from e2ed2.models.folders.inference import Inference
from e2ed2.models.folders.pipeline import latent_shape, load_pipeline
from e2ed2.models.scheduler import prediction_type_of, schedule_of
from e2ed2.models.text import cached_prompt_embeds
from e2ed2.samplers import NOISY_SOLVERS
from e2ed2.system.errors import UserError
from e2ed2.system.files import atomic_file, file_sha256, locked
from e2ed2.system.paths import cache_dir
from e2ed2.trajectory import unroll

FIRST_SEED = 2**31  # far from the seeds that images are evaluated with
ROWS_PER_FILE = 32
SECONDS_PER_LINE = 10


def pair_noise(rows: Tensor, shape: Sequence[int]) -> Tensor:
    """The start noise of the items `rows` [B], [B, *shape] on the CPU: a function of their numbers, not stored."""
    seeds = (FIRST_SEED + row for row in rows.tolist())
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def teacher_samples(name: str, captions: list[str], device: torch.device, say: Callable[[str], None]) -> Tensor:
    """What the teacher makes of each item's caption and `pair_noise`, by its own steps and guidance.

    They are made once and kept in the cache folder by the hash of the teacher and the captions, a file per 32 items, so
    that a later run reads the same and an interrupted one goes on.

    Args:
        name: the teacher, a model folder or a bundled model that `check_teacher` has let pass.
        captions: N, one for each item.
    Returns:
        Latents [N, C, h, w] on the CPU.
    """
    folder, teacher, inference = load_teacher("trajectory.teacher", name)
    sample = _sampler(teacher.to(device), inference, captions)
    kept = cache_dir() / "teacher-pairs" / _key(folder, captions)
    kept.mkdir(parents=True, exist_ok=True)
    say(f"teacher pairs: {len(captions)} samples of {name}, {inference.nfe} network evaluations each, kept in {kept}")
    samples, next_line = [], time.monotonic() + SECONDS_PER_LINE
    with locked(kept):  # the first of several processes makes them
        for rows in torch.arange(len(captions)).split(ROWS_PER_FILE):
            path = kept / f"{int(rows[0]):08d}.safetensors"
            x0 = _read(path)
            if x0 is None:
                x0 = sample(rows)
                with atomic_file(path) as temporary:
                    save_file({"x0": x0}, temporary)
            samples.append(x0)
            if time.monotonic() > next_line:
                say(f"teacher pairs: {int(rows[-1]) + 1} of {len(captions)}")
                next_line = time.monotonic() + SECONDS_PER_LINE
    return torch.cat(samples)


def check_teacher(name: str, student: Any, size: int) -> None:
    """Before the images of `size` pixels are encoded: whether a teacher's samples can be the student's.

    Raises:
        UserError: no such model, one that draws noise on its way, or one on other latents.
    """
    _, teacher, inference = load_teacher("trajectory.teacher", name, with_text=False)
    if inference.solver in NOISY_SOLVERS:
        raise UserError(
            f"trajectory.teacher: {name} samples with {inference.solver}, but a pair needs ddim (or euler), whose "
            "sample is a function of the noise; give a model made for it, such as emoji-base"
        )
    height, width, problem = inference.height, inference.width, None
    made, expected = latent_shape(teacher, height, width), latent_shape(student, size, size)
    if not torch.equal(schedule_of(teacher.scheduler).alphas, schedule_of(student.scheduler).alphas):
        problem = "has another noise schedule than model.path"
    elif not _alike(teacher.vae, student.vae):
        problem = "has another autoencoder than model.path, so that its latents are other images"
    elif made != expected:
        shapes = ["x".join(map(str, shape)) for shape in (made, expected)]
        problem = f"makes latents {shapes[0]} ({height}x{width} px), but with data.size={size} they are {shapes[1]}"
    if problem:
        raise UserError(f"trajectory.teacher: {name} {problem}; give a teacher on the same latents")


def load_teacher(field: str, name: str, *, with_text: bool = True) -> tuple[Path, Any, Inference]:
    """(folder, pipeline, Inference) of the model that `field` of the recipe names.

    Raises:
        UserError: no such model, or one with a network for each of its steps.
    """
    try:
        folder = resolve_model(name)
        teacher, inference = load_pipeline(folder, with_text=with_text)
    except UserError as error:
        raise UserError(f"{field}: {error}") from error
    if inference.transformers is not None:
        raise UserError(f"{field}: {name} has a network for each of its steps; give one with a single one")
    return folder, teacher, inference


def _sampler(
    teacher: Any, inference: Inference, captions: list[str]
) -> Callable[[Tensor], Tensor]:
    """rows [B] -> the teacher's samples of them, latents on the CPU."""
    network = network_of(teacher).eval()
    device, shape = next(network.parameters()).device, latent_shape(teacher, inference.height, inference.width)
    prompts = ["", *dict.fromkeys(captions)]
    place = {prompt: i for i, prompt in enumerate(prompts)}
    embeds = cached_prompt_embeds(prompts, teacher, inference.max_sequence_length)
    uncond = family_of(teacher).uncond(teacher, embeds.select(torch.tensor([0]))).to(device)
    denoise = denoiser_of(teacher, network, inference.guidance_scale, uncond)

    @torch.no_grad()
    def sample(rows: Tensor) -> Tensor:
        return unroll(
            denoise,
            pair_noise(rows, shape).to(device),
            inference.grid().to(device),
            embeds.select(torch.tensor([place[captions[row]] for row in rows.tolist()])).to(device),
            schedule=schedule_of(teacher.scheduler),
            prediction_type=prediction_type_of(teacher.scheduler),
            solver=inference.solver,
        ).cpu()

    return sample


def _alike(a: nn.Module, b: nn.Module) -> bool:
    """The same weights, up to the half precision that bundled models are stored in."""
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(
        x[k].shape == y[k].shape and torch.allclose(x[k].cpu().float(), y[k].cpu().float(), rtol=1e-2, atol=1e-3)
        for k in x
    )


def _key(folder: Path, captions: list[str]) -> str:
    digest = hashlib.sha256("\n".join(captions).encode())
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json")):
        digest.update(file_sha256(path).encode())
    return digest.hexdigest()[:16]


def _read(path: Path) -> Tensor | None:
    try:
        return load_file(path)["x0"]
    except (OSError, SafetensorError, KeyError):  # not made yet, or damaged
        return None
