"""Attention kernels in bf16 training at 16 tokens on a CPU: four unrolled steps of emoji-lcm with torch's fused kernel
(the reference) and with the plain formula that `models/denoiser.py` asks for, turn by turn.

    python benchmarks/attention.py
"""

import time
from statistics import median

import torch

from e2ed2.models import denoiser
from e2ed2.models.folders.bundled import resolve_model
from e2ed2.models.folders.pipeline import load_pipeline
from e2ed2.models.scheduler import schedule_of
from e2ed2.models.text import encode_prompts
from e2ed2.schedule import lcm_timesteps
from e2ed2.system.environment import device_name
from e2ed2.trajectory import draw_noises, unroll

BATCH, STEPS, ROUNDS = 32, 4, 12

pipeline, _ = load_pipeline(resolve_model("emoji-lcm"))
cond = encode_prompts(["red apple, twemoji style"], pipeline).repeat(BATCH)
noises = draw_noises((BATCH, 4, 16, 16), STEPS, torch.Generator().manual_seed(0))
schedule, timesteps = schedule_of(pipeline.scheduler), lcm_timesteps(STEPS)


def seconds(short: int) -> float:
    """Forward and backward of one micro-batch; sequences of fewer than `short` latent cells use the plain formula."""
    denoiser.SHORT = short
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        denoise = denoiser.denoiser_of(pipeline, pipeline.transformer)
        x0 = unroll(
            denoise, noises[0], timesteps, cond, schedule=schedule, prediction_type="v_prediction", noises=noises[1:]
        )
    x0.float().square().mean().backward()
    return time.perf_counter() - started


seconds(0), seconds(1024)  # warm-up
fused, plain = map(median, zip(*[(seconds(0), seconds(1024)) for _ in range(ROUNDS)], strict=True))
print(f"{device_name()}, torch {torch.__version__}, {BATCH} captions, {STEPS} steps, median of {ROUNDS} rounds")
print(f"fused {fused:.3f} s, plain {plain:.3f} s: {fused / plain:.2f} times as fast")
