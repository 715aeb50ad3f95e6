"""Our chain beside TRL's AlignProp trainer, which also trains a whole sampler by what is at its end.

    python -m venv ENV && ENV/bin/pip install torch==2.13.0 trl==0.23.1 transformers==5.24.0 diffusers==0.42.1
    OMP_NUM_THREADS=1 python -m benchmarks.alignprop --python ENV/bin/python [--rounds 3] [--json]

The same Stable Diffusion UNet of 15M random weights and autoencoder, latents of 16x16 cells, four steps of DDIM, a
guidance of 2, all weights trained in float32, a loss in pixels after the decoder, AdamW, clipping. Seconds are of
processor time, of the updates after the first, in processes of their own, turn by turn.

- `recomputed`: ours over theirs for as many images, a step recomputed in backward, as theirs does always.
- `kept`: ours without recomputing. Every evaluation carries a gradient in all of them.
- `best`: training images a second, ours over theirs, each at its best of the batches.
"""

import argparse
import json
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from e2ed2.system.drawing.markdown import markdown_table

STEPS, UPDATES, BATCHES = 4, 4, (2, 4, 8)
HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
TINY = runpy.run_path(str(ROOT / "tests" / "models" / "tiny.py"))
ORDERS = {"recomputed": True, "kept": False}


def write_model(folder: Path) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    torch.manual_seed(0)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    parts = TINY["stable_diffusion"](scheduler)
    config = dict(parts["unet"].config) | {"block_out_channels": (128, 256), "attention_head_dim": 4, "sample_size": 16}
    parts |= {"unet": type(parts["unet"]).from_config(config), "vae": TINY["autoencoder"]()}
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder)


def ours(folder: Path, rows: int, recomputed: bool) -> float:
    """Seconds of an update, as `e2ed2 train` makes it."""
    from benchmarks.cost import timed_train
    from e2ed2.recipe.load import load_config

    recipe = folder / "recipe.yaml"
    recipe.write_text("stage: e2ed2\nrun: {dir: x}\nmodel: {path: x}\n")
    with tempfile.TemporaryDirectory() as run_dir:
        fields = {
            "model.path": str(folder / "model"), "data.source": "folder", "data.path": str(folder / "images"),
            "data.size": 64, "run.dir": f"{run_dir}/run", "trajectory.num_inference_steps": STEPS,
            "trajectory.start": "pure_noise", "trajectory.solver": "ddim", "trajectory.guidance_scale": 2.0,
            "trajectory.gradient_checkpointing": recomputed, "objective.plugin.weight": 1.0,
            "objective.plugin.function": "benchmarks.alignprop.reward:distance", "train.micro_batch_size": rows,
            "train.mixed_precision": "no", "train.lr": 1e-5, "train.max_train_steps": UPDATES + 1,
            "train.preview_every": 10**6,
        }  # fmt: skip
        return timed_train(load_config(recipe, [f"{name}={json.dumps(value)}" for name, value in fields.items()]))[1]


def theirs(python: str, folder: Path, rows: int) -> float:
    asked = json.dumps({"folder": str(folder / "model"), "steps": STEPS, "rows": rows, "updates": UPDATES + 1})
    return median(json.loads(_said([python, str(HERE / "theirs.py"), asked]))[1:])


def apart(folder: Path, rows: int, recomputed: bool) -> float:
    """`ours` in a process of its own."""
    asked = json.dumps([str(folder), rows, recomputed])
    return float(_said([sys.executable, "-m", "benchmarks.alignprop", "--ours", asked]))


def _said(command: Sequence[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout.splitlines()[-1]


def compared(python: str, folder: Path, rounds: int) -> dict[str, Any]:
    rows: list[dict[str, float]] = []
    for rows_at_a_time in BATCHES:
        for _ in range(rounds):
            found = {name: apart(folder, rows_at_a_time, again) for name, again in ORDERS.items()}
            rows.append({"rows": rows_at_a_time, "theirs": theirs(python, folder, rows_at_a_time), **found})
            print(rows[-1], file=sys.stderr, flush=True)
    ratios = {name: median(row[name] / row["theirs"] for row in rows) for name in ORDERS}
    rates = {
        name: max(median(row["rows"] / row[name] for row in rows if row["rows"] == n) for n in BATCHES)
        for name in ("theirs", *ORDERS)
    }
    return {**ratios, "best": max(rates[name] for name in ORDERS) / rates["theirs"], "images_per_second": rates}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.alignprop")
    parser.add_argument("--python", help="of an environment with TRL")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--ours", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.ours:
        folder, rows, recomputed = json.loads(asked.ours)
        print(ours(Path(folder), rows, recomputed))
        return
    if not asked.python or subprocess.run([asked.python, "-c", "from trl import AlignPropTrainer"]).returncode:
        parser.error(f"--python: {asked.python}: no Python with TRL 0.23; see the head of this file")
    from benchmarks.plan import write_images

    with tempfile.TemporaryDirectory() as name:
        write_model(Path(name) / "model")
        write_images(Path(name) / "images", 64)
        found = compared(asked.python, Path(name), asked.rounds)
    rates = found.pop("images_per_second")
    table = markdown_table(["", "ratio"], [[key, f"{value:.2f}"] for key, value in found.items()])
    said = "images a second: " + ", ".join(f"{key} {value:.2f}" for key, value in rates.items())
    print(json.dumps(found | {"images_per_second": rates}, indent=1) if asked.json else f"{table}\n\n{said}")


if __name__ == "__main__":
    main()
