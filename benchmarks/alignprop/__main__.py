"""Our chain beside TRL's AlignProp trainer, which also trains a whole sampler by what is at its end.

    python -m venv ENV && ENV/bin/pip install torch==2.13.0 trl==0.23.1 transformers==5.24.0 diffusers==0.42.1
    OMP_NUM_THREADS=1 python -m benchmarks.alignprop --python ENV/bin/python [--json] [--out results/benchmarks]

The same Stable Diffusion UNet of 15M random weights and autoencoder, latents of 16x16 cells, four steps of DDIM, a
guidance of 2, all weights trained in float32, a loss in pixels after the decoder, AdamW, clipping. Seconds are of
processor time, of the updates after the first, in processes of their own, turn by turn.

- `recomputed`: ours over theirs for as many images, a step recomputed in backward, as theirs does always.
- `kept`: ours without recomputing. Every evaluation carries a gradient in all of them.
- `best`: training images a second, ours over theirs, each at its best of the batches.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch

from benchmarks.cost import timed_train
from benchmarks.plan import TINY, write_images
from benchmarks.published import publish
from e2ed2.recipe.load import build_config

STEPS, UPDATES, ROUNDS, BATCHES, SIDE = 4, 4, 2, (2, 4, 8), 64
HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
WAYS = {"recomputed": True, "kept": False}


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
    with tempfile.TemporaryDirectory() as run_dir:
        config = build_config(
            {
                "stage": "e2ed2", "run": {"dir": f"{run_dir}/run"}, "model": {"path": str(folder / "model")},
                "data": {"source": "folder", "path": str(folder / "images"), "size": SIDE},
                "trajectory": {
                    "num_inference_steps": STEPS, "start": "pure_noise", "solver": "ddim", "guidance_scale": 2.0,
                    "gradient_checkpointing": recomputed,
                },
                "objective": {"plugin": {"weight": 1.0, "function": "benchmarks.alignprop.reward:distance"}},
                "train": {
                    "micro_batch_size": rows, "mixed_precision": "no", "lr": 1e-5, "max_train_steps": UPDATES + 1,
                    "preview_every": 10**6,
                },
            }
        )  # fmt: skip
        return timed_train(config)[1]


def theirs(python: str, folder: Path, rows: int) -> float:
    asked = json.dumps({"folder": str(folder / "model"), "steps": STEPS, "rows": rows, "updates": UPDATES + 1})
    return median(json.loads(_said([python, str(HERE / "theirs.py"), asked]))[1:])


def apart(folder: Path, rows: int, recomputed: bool) -> float:
    """`ours` in a process of its own."""
    asked = json.dumps([str(folder), rows, recomputed])
    return float(_said([sys.executable, "-m", "benchmarks.alignprop", "--apart", asked]))


def _said(command: Sequence[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout.splitlines()[-1]


def compared(python: str, folder: Path) -> dict[str, float]:
    rows: list[dict[str, float]] = []
    for size in BATCHES:
        for _ in range(ROUNDS):
            found = {name: apart(folder, size, again) for name, again in WAYS.items()}
            rows.append({"rows": size, "theirs": theirs(python, folder, size), **found})
            print(rows[-1], file=sys.stderr, flush=True)
    rates = {
        name: max(median(row["rows"] / row[name] for row in rows if row["rows"] == size) for size in BATCHES)
        for name in ("theirs", *WAYS)
    }
    ratios = {name: median(row[name] / row["theirs"] for row in rows) for name in WAYS}
    best = max(rates[name] for name in WAYS) / rates["theirs"]
    return {**ratios, "best": best, **{f"images_per_second_{name}": rate for name, rate in rates.items()}}


def measure(python: str) -> dict[str, float]:
    if subprocess.run([python, "-c", "from trl import AlignPropTrainer"], capture_output=True).returncode:
        raise SystemExit(f"--python: {python}: no Python with TRL 0.23; benchmarks/alignprop/__main__.py says how")
    with tempfile.TemporaryDirectory() as name:
        write_model(Path(name) / "model")
        write_images(Path(name) / "images", SIDE)
        return compared(python, Path(name))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--apart"]:
        folder, size, again = json.loads(sys.argv[2])
        print(ours(Path(folder), size, again))
    else:
        publish("alignprop", measure, "python")
