"""Is what the device computes right? The unrolled gradient, a run that is resumed, pictures of a bundled model."""

import runpy
import signal
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PixArtAlphaPipeline, PixArtTransformer2DModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.gpu.reference import FILE, SEEDS
from e2ed2.models.autoencoder import decode_all
from e2ed2.models.denoiser import denoiser_of
from e2ed2.models.folders.bundled import AUTOENCODER, WEIGHTS
from e2ed2.models.folders.inference import read_inference
from e2ed2.models.prompt_embeds import PromptEmbeds
from e2ed2.models.scheduler import noise_scheduler, prediction_type_of, schedule_of
from e2ed2.recipe.load import build_config
from e2ed2.training.log import read_metrics
from e2ed2.training.loop import train
from e2ed2.trajectory import draw_noises, unroll

TINY = Path(__file__).parents[2] / "tests" / "models" / "tiny.py"  # by its path: packages install `tests` of their own
MODEL = "emoji-e2ed2"
SHAPE, NUM_STEPS = (4, 16, 16), 4  # its latents and steps


@dataclass(frozen=True)
class Check:
    """A figure that must not be more than `allowed`."""

    name: str
    allowed: float
    measure: Callable[[torch.device], float]


def all_checks() -> list[Check]:
    """bf16 has 8 bits, 0.4% a number, which four steps and the way back add up."""
    return [
        Check("gradient in float32 against the CPU's", 1e-4, gradient_error),
        Check(
            "the same, blocks and steps recomputed", 1e-4, lambda device: gradient_error(device, recompute=True)
        ),
        Check(
            "gradient in bf16 against the CPU's in float32", 0.1,
            lambda device: gradient_error(device, torch.bfloat16),
        ),
        Check("losses of three updates, interrupted and resumed", 1e-5, resume_error),
        Check(f"pictures of {MODEL} against a CPU's, levels of 255", 0.5, picture_error),
    ]  # fmt: skip


def gradient_error(device: torch.device, dtype: torch.dtype | None = None, recompute: bool = False) -> float:
    """||g - g_CPU|| / ||g_CPU||, g the gradient of all weights through the four steps of the bundled model.

    Args:
        dtype: of autocast; the CPU's is always in float32. recompute: blocks and steps.
    """
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        reference, value = _gradient_on_cpu(), _gradient(device, dtype, recompute)
    return ((value - reference).norm() / reference.norm()).item()


def resume_error(device: torch.device) -> float:
    """Of the losses of three updates, relative: a run at a stretch against one with Ctrl-C after the first.

    A tiny pipeline on a folder of pictures in bf16. Some of a GPU's kernels add in an order of their own, so that the
    last digits may differ.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tiny = runpy.run_path(str(TINY))
        tiny["save_tiny"]("PixArtAlphaPipeline", root / "start")
        side = tiny["SIDE"]
        (root / "data").mkdir()
        for i in range(6):
            pixels = torch.randint(256, (side, side, 3), generator=torch.Generator().manual_seed(i))
            Image.fromarray(pixels.to(torch.uint8).numpy()).save(root / "data" / f"{i}.png")
            (root / "data" / f"{i}.txt").write_text(f"picture {i}")
        whole, parts = _recipe(root, "whole", side), _recipe(root, "parts", side)
        train(whole, _quiet)
        with suppress(KeyboardInterrupt):
            train(parts, _quiet, lambda step, steps, row: signal.raise_signal(signal.SIGINT) if step == 1 else None)
        interrupted_at = [row["global_step"] for row in read_metrics(parts.run.dir / "metrics.jsonl")]
        train(parts, _quiet)
        totals = [[row["total"] for row in read_metrics(c.run.dir / "metrics.jsonl")] for c in (whole, parts)]
    if interrupted_at != [1] or [len(losses) for losses in totals] != [3, 3]:
        raise RuntimeError(f"interrupted after {interrupted_at}, then {totals}")
    return max(abs(a - b) / abs(a) for a, b in zip(*totals, strict=True))


def picture_error(device: torch.device) -> float:
    """Mean absolute difference, in levels of 255, to what a CPU drew from the same prompts and noises."""
    return (draw(device).double() - load_file(FILE)["images"].double()).abs().mean().item()


def draw(device: torch.device) -> Tensor:
    """uint8 images [N, 3, H, W] of the saved prompts."""
    pipeline = bundled(device)
    each = [draw_noises(SHAPE, NUM_STEPS, torch.Generator().manual_seed(seed)) for seed in SEEDS]
    with torch.inference_mode():
        return decode_all(pipeline.vae, _chain(pipeline, torch.stack(each, dim=1).to(device)))


def bundled(device: torch.device) -> Any:
    """The bundled model in float32, without its text encoder."""
    transformer = PixArtTransformer2DModel.from_pretrained(WEIGHTS / MODEL, torch_dtype=torch.float32)
    vae = AutoencoderKL.from_pretrained(WEIGHTS / AUTOENCODER, torch_dtype=torch.float32)
    parts = dict.fromkeys(("tokenizer", "text_encoder"))
    scheduler = noise_scheduler("lcm", "v_prediction")
    return PixArtAlphaPipeline(**parts, vae=vae, transformer=transformer, scheduler=scheduler).to(device)


def _chain(pipeline: Any, noises: Tensor, recompute: bool = False) -> Tensor:
    """Latents of the saved prompts."""
    saved, scheduler = load_file(FILE, str(noises.device)), pipeline.scheduler
    return unroll(
        denoiser_of(pipeline, pipeline.transformer),
        noises[0],
        read_inference(WEIGHTS / MODEL, pipeline).grid().to(noises.device),
        PromptEmbeds(saved["embeds"], saved["mask"]),
        schedule=schedule_of(scheduler),
        prediction_type=prediction_type_of(scheduler),
        noises=noises[1:],
        gradient_checkpointing=recompute,
    )


@cache
def _gradient_on_cpu() -> Tensor:
    return _gradient(torch.device("cpu"), None, False)


def _gradient(device: torch.device, dtype: torch.dtype | None, recompute: bool) -> Tensor:
    """Of L2 at the end of the bundled model's chain, all weights in one vector, float64."""
    pipeline = bundled(device)
    noises = draw_noises((len(SEEDS), *SHAPE), NUM_STEPS + 1, torch.Generator().manual_seed(1)).to(device)
    if recompute:
        pipeline.transformer.enable_gradient_checkpointing()
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        x0 = _chain(pipeline, noises[:NUM_STEPS], recompute)
    (x0.float() - noises[NUM_STEPS]).square().mean().backward()
    return torch.cat([p.grad.flatten().double().cpu() for p in pipeline.transformer.parameters()])


def _recipe(root: Path, name: str, side: int) -> Any:
    train = {"max_train_steps": 3, "micro_batch_size": 4, "mixed_precision": "bf16", "log_every": 1, "lr": 1e-3}
    return build_config(
        {
            "stage": "e2ed2", "run": {"dir": root / name}, "model": {"path": str(root / "start")},
            "data": {"source": "folder", "path": str(root / "data"), "size": side}, "objective": {"l2": {"weight": 1}},
            "trajectory": {"num_inference_steps": 2}, "train": train,
        }  # fmt: skip
    )


def _quiet(line: str) -> None:
    pass
