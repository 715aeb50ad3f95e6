"""What `e2ed2 plan` counts beside the peak that a training has, on a CPU: is it within 15%?

    OMP_NUM_THREADS=1 python -m benchmarks.plan [--only NAME ...]
    OMP_NUM_THREADS=1 python -m benchmarks.plan --growth

`--growth` changes one thing at a time of one case, and prints how time and peak grow with it, counted and measured.

PixArt networks of random weights, two updates each in a process of its own. A process takes some hundred MB for Python,
torch and their libraries; what a training of a network of a few weights has at its peak stands for that, and is taken
off. malloc is told to give memory back (`MALLOC_MMAP_THRESHOLD_`), so that the peak is of what lives.
"""

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from e2ed2.models.memory.needs import Needs, needs
from e2ed2.recipe.load import load_config
from e2ed2.system.drawing.markdown import markdown_table

TINY = runpy.run_path(str(Path(__file__).parents[1] / "tests" / "models" / "tiny.py"))
STEPS, BLOCKS = {"trajectory.gradient_checkpointing": True}, {"model.gradient_checkpointing": True}
IMAGES = {"objective.lpips.weight": 1}
LORA = {"trajectory.parameters": "lora", "trajectory.lora_rank": 64}


class Case(NamedTuple):
    """layers and width of the network, pixels, images of a micro-batch, fields of the recipe."""

    layers: int
    heads: int
    side: int
    rows: int
    fields: Mapping[str, Any]


SMALL = Case(1, 2, 32, 1, {})
CASES = {
    "18M": Case(12, 4, 64, 8, {}),
    "18M, steps recomputed": Case(12, 4, 64, 16, STEPS),
    "18M, blocks recomputed": Case(12, 4, 64, 16, BLOCKS),
    "18M, both": Case(12, 4, 64, 32, {**STEPS, **BLOCKS}),
    "18M, image terms": Case(12, 4, 64, 16, {**STEPS, **IMAGES}),
    "18M, keep": Case(12, 4, 64, 8, {"objective.keep.weight": 1}),
    "70M": Case(12, 8, 32, 8, {}),
    "70M, image terms": Case(12, 8, 64, 4, {**IMAGES, **STEPS}),
    "300M, both": Case(24, 12, 32, 2, {**STEPS, **BLOCKS}),
    "300M, LoRA": Case(24, 12, 32, 4, LORA),
    "0.8B, LoRA, both": Case(28, 18, 32, 1, {**LORA, **STEPS, **BLOCKS}),
}

BASE = "4 steps, 64 px, 8 images"
UPDATES = 6  # whose median says what one takes
GROWTH = {
    BASE: Case(12, 4, 64, 8, {}),
    **{f"{k} step{'s' * (k > 1)}": Case(12, 4, 64, 8, {"trajectory.num_inference_steps": k}) for k in (1, 2, 8)},
    **{f"{side} px": Case(12, 4, side, 8, {}) for side in (32, 96)},
    **{f"{rows} images": Case(12, 4, 64, rows, {}) for rows in (4, 16)},
    "2 samples of each image": Case(12, 4, 64, 8, {"objective.num_samples": 2, "objective.energy.weight": 1}),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plan")
    parser.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--growth", action="store_true")
    asked = parser.parse_args()
    if asked.growth:
        growth()
    else:
        within(asked.only)


def growth() -> None:
    """How arithmetic, time and peak grow, over those of `BASE`."""
    found = {}
    for name, each in compared(GROWTH, UPDATES):
        found[name] = (each.planned.flops, each.seconds, each.planned.peak_memory_bytes, each.peak)
        print(name, *(f"{value:.4g}" for value in found[name]), flush=True)
    rows = [
        [name, *(f"{value / base:.2f}" for value, base in zip(values, found[BASE], strict=True))]
        for name, values in found.items()
    ]
    print(markdown_table(["", "arithmetic, counted", "time", "memory, counted", "peak"], rows))


def within(names: Sequence[str]) -> None:
    """What is counted over the peak."""
    rows = []
    for name, each in compared({name: CASES[name] for name in names}, updates=2):
        planned = each.planned.peak_memory_bytes
        rows.append([name, f"{planned / 2**20:,.0f}", f"{each.peak / 2**20:,.0f}", f"{planned / each.peak:.2f}"])
        print(rows[-1], flush=True)
    print(markdown_table(["case", "counted, MiB", "peak, MiB", "ratio"], rows))


class Run(NamedTuple):
    """peak: bytes. seconds: of an update. planned: what is counted."""

    peak: int
    seconds: float
    planned: Needs


def compared(cases: Mapping[str, Case], updates: int) -> Iterator[tuple[str, Run]]:
    """Each case's run, its peak less what Python, torch and their libraries take."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        small = run(SMALL, folder / "small", updates)
        process = small.peak - small.planned.peak_memory_bytes
        print(f"Python, torch and their libraries: {process / 2**20:,.0f} MiB", flush=True)
        for name, case in cases.items():
            found = run(case, folder / name, updates)
            yield name, found._replace(peak=found.peak - process)


def run(case: Case, folder: Path, updates: int) -> Run:
    """A training in a process of its own, and that process's peak."""
    model = write_model(case, folder / "model")
    write_images(folder / "images", case.side)
    fields = {
        "model.path": str(model), "data.source": "folder", "data.path": str(folder / "images"), "data.size": case.side,
        "run.dir": str(folder / "run"), "trajectory.num_inference_steps": 4, "trajectory.start": "pure_noise",
        "objective.l2.weight": 1, "train.micro_batch_size": case.rows, "train.mixed_precision": "no",
        "train.log_every": 1, "train.preview_every": 10**6, "train.max_train_steps": updates, **case.fields,
    }  # fmt: skip
    recipe = folder / "recipe.yaml"
    recipe.write_text("stage: e2ed2\nrun: {dir: x}\nmodel: {path: x}\n")
    overrides = [f"{name}={json.dumps(value)}" for name, value in fields.items()]
    planned = needs(load_config(recipe, overrides), model, half=False)
    settings = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**20)}
    command = [sys.executable, "-m", "e2ed2.cli", "train", str(recipe), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, env=settings)
    if done.returncode:
        raise SystemExit(done.stderr)
    logged = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    seconds = median(case.rows / row["images_per_second"] for row in logged[1:])
    return Run(logged[-1]["peak_memory_bytes"], seconds, planned)


def write_model(case: Case, folder: Path) -> Path:
    """A pipeline of random weights; tiny text encoder, an autoencoder as wide as the bundled one."""
    from diffusers import PixArtAlphaPipeline, PixArtTransformer2DModel

    torch.manual_seed(0)
    small = TINY["pixart"]()
    size = {"num_layers": case.layers, "num_attention_heads": case.heads, "attention_head_dim": 72}
    size = size if case.layers > 1 else {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16}
    width = size["num_attention_heads"] * size["attention_head_dim"]
    config = dict(small["transformer"].config) | size | {"cross_attention_dim": width, "sample_size": case.side // 4}
    network = PixArtTransformer2DModel.from_config(config)
    small |= {"transformer": network, "vae": TINY["autoencoder"]()}
    PixArtAlphaPipeline(**small).save_pretrained(folder)
    return folder


def write_images(folder: Path, side: int) -> None:
    """Sixteen of noise, each with a caption."""
    from e2ed2.system.drawing.pictures import to_picture

    folder.mkdir(parents=True)
    for i in range(16):
        noise = torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        to_picture(noise).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"noise {i}\n")


if __name__ == "__main__":
    main()
