"""A few-step model moved to a style in every way that somebody would try, each for the same time of one core.

    OMP_NUM_THREADS=1 python -m benchmarks.rivals noto|lineart|photographs [--minutes 5] [--seed 0] [--only NAME ...]
        [--evaluations N] [--data DIR] [--measure validation] [--out results/finetune]

A rival's first updates are timed, and then as many are made as take `--minutes` of processor time; with `--evaluations`
as many as take so many network evaluations (a forward pass counts 1, one with backward 3). Each is measured on captions
of the style held out from its training, and on the benchmark of the start. Run again, it goes on. `photographs` is the
folder that `benchmarks/photographs.py` makes (`--data`), measured without alignment.
"""

import argparse
import json
import math
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import yaml

import e2ed2.emoji.protocols  # noqa: F401 - adds its protocols
from e2ed2.data.captions import read_captions
from e2ed2.emoji.styles import load_style, write_style
from e2ed2.evaluation.evaluate import evaluate
from e2ed2.finetune.run import choose_finetune
from e2ed2.recipe.config import Config
from e2ed2.system.files import write_file
from e2ed2.training.loop import train

START, OLD, PHOTOGRAPHS = "emoji-e2ed2", "emoji-heldout", "photographs"
TIMED = 24  # updates whose mean says what one takes
PROMPTS = {"objective.keep.prompts": "emoji"}  # those that all of them stay near to
NO_TERMS = {f"objective.{name}.weight": 0 for name in ("l2", "lpips", "mmd", "keep")}
ORDINARY = {**NO_TERMS, "objective.denoising.weight": 1}
LORA = {"trajectory.parameters": "lora", "trajectory.lora_rank": 64}
NOT_KEPT = {"objective.keep.weight": 0}
RIVALS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, last step's gradient": {"trajectory.num_backprop_steps": 1},
    "ours, LoRA": {**LORA, "train.lr": 1e-3},
    "ours, without keep": NOT_KEPT,
    "ours, without keep, a third of the rate": {**NOT_KEPT, "train.lr": 1e-4},
    "ours, without keep, average 0.999": {**NOT_KEPT, "train.ema_decay": 0.999},
    "ours and the ordinary loss": {"objective.denoising.weight": 1},
    "ours from the ordinary loss": {"model.path": "ordinary, 3e-4"},
    "ordinary, 1e-4": {**ORDINARY, "train.lr": 1e-4},
    "ordinary, 3e-4": {**ORDINARY, "train.lr": 3e-4},
    "ordinary, 1e-3": {**ORDINARY, "train.lr": 1e-3},
    "ordinary, LoRA, 1e-3": {**ORDINARY, **LORA, "train.lr": 1e-3},
    "ordinary, LoRA, 3e-3": {**ORDINARY, **LORA, "train.lr": 3e-3},
}
AFTER = {"ours from the ordinary loss": ("ordinary, 3e-4", 0.25)}  # the share of the budget that comes before


def main() -> None:
    asked = _asked()
    for name in asked.only or RIVALS:
        file = asked.out / asked.style / f"{_folder(name)}-{_budget(asked)}-seed-{asked.seed}.json"
        if not file.exists():
            with tempfile.TemporaryDirectory() as folder:
                result = run(name, asked, Path(folder))
            write_file(file, (json.dumps(result, indent=1) + "\n").encode())
        print(_line(json.loads(file.read_text())), flush=True)


def run(name: str, asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train a rival and measure it."""
    data = asked.data / "train" if asked.data else folder / "images"
    if not asked.data:
        write_style(load_style(asked.style, "train"), data)
    share, spent = 1.0, Spent(0, 0, 0.0)
    fields = dict(RIVALS[name])
    if name in AFTER:
        before, first = AFTER[name]
        model, spent = _trained(RIVALS[before], asked, data, folder / "before", first)
        fields["model.path"], share = str(model), 1 - first
    model, more = _trained(fields, asked, data, folder / "run", share)
    spent = Spent(spent.updates + more.updates, spent.evaluations + more.evaluations, spent.seconds + more.seconds)
    style = _protocol(asked, folder)
    rows = []
    steps = (4, 1, 20) if "denoising" in str(fields) else (4, 1)
    for protocol, nfe in [*((style, k) for k in steps), (OLD, 4)]:
        out = folder / f"{Path(protocol).stem}-{nfe}"
        row = evaluate(str(model), protocol, steps=nfe, seed=asked.seed, out=out, keep="nothing")
        assert row is not None
        kept = ("protocol", "nfe", "num_images", "reference", "metrics")
        rows.append({key: row[key] for key in kept})
    shutil.rmtree(folder / "run" / "checkpoints", ignore_errors=True)
    return {
        "rival": name, "style": asked.style, "seed": asked.seed, "budget": _budget(asked), "updates": spent.updates,
        "network_evaluations": spent.evaluations, "core_seconds": round(spent.seconds, 1), "rows": rows,
    }  # fmt: skip


class Spent(NamedTuple):
    """What a training took."""

    updates: int
    evaluations: int
    seconds: float


def _trained(
    fields: Mapping[str, Any], asked: argparse.Namespace, data: Path, run_dir: Path, share: float
) -> tuple[Path, Spent]:
    """A rival's model after its share of the budget."""
    each = evaluations_per_update(_config(fields, asked, data, run_dir, 1))
    if asked.evaluations:
        updates = max(1, round(share * asked.evaluations / each))
    else:
        times: list[float] = []
        _train(_config(fields, asked, data, run_dir.with_name("timed"), TIMED), times)
        own = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
        updates = max(1, math.floor(share * asked.minutes * 60 / fmean(own)))  # chains differ in length: no median
    times = []
    model = _train(_config(fields, asked, data, run_dir, updates), times)
    return model, Spent(updates, round(each * updates), (times[-1] - times[0]) * updates / max(1, updates - 1))


def _train(config: Config, times: list[float]) -> Path:
    """Train, and note the processor's time after each update: what is made ready before the first is not counted."""
    return train(config, lambda line: None, lambda step, steps, row: times.append(time.process_time()))


def _config(fields: Mapping[str, Any], asked: argparse.Namespace, data: Path, run_dir: Path, updates: int) -> Config:
    own = PROMPTS | {"train.max_train_steps": updates, "train.seed": asked.seed, "train.preview_every": 10**6}
    given = [f"{name}={json.dumps(value)}" for name, value in {**own, **fields}.items() if name != "model.path"]
    return choose_finetune(str(fields.get("model.path", START)), str(data), run_dir, overrides=given).config


def evaluations_per_update(config: Config) -> float:
    """Network evaluations that an update is expected to take: a forward pass 1, one with backward 3."""
    rows = config.train.micro_batch_size * config.train.gradient_accumulation_steps
    trajectory, terms = config.trajectory, config.objective
    weights = trajectory.num_steps_weights or [0.0] * (trajectory.num_inference_steps - 1) + [1.0]
    through = trajectory.num_backprop_steps or trajectory.num_inference_steps
    cost = kept = 0.0
    for steps, weight in enumerate(weights, start=1):
        share = weight / sum(weights)
        lengths = range(1, steps + 1) if trajectory.start == "random_step" else [steps]
        cost += share * sum(3 * min(k, through) + max(0, k - through) for k in lengths) / len(lengths)
        kept += share * (3 * min(steps, through) + max(0, steps - through) + steps)
    unrolls = any(term.weight > 0 for term in (terms.l2, terms.lpips, terms.mmd, terms.patch_energy))
    return rows * (unrolls * cost + 3 * (terms.denoising.weight > 0)) + (
        unrolls * (terms.keep.weight > 0) * kept * -(-rows // 2)
    )


def _protocol(asked: argparse.Namespace, folder: Path) -> str:
    """The style's own protocol; of photographs one over their files, without alignment, which knows emoji alone."""
    if asked.style != PHOTOGRAPHS:
        return f"{asked.style}-{asked.measure}"
    images = (asked.data / asked.measure).absolute()
    prompts = {"path": str(images), "num": len(read_captions(images, "prompts")), "samples_per_prompt": 2}
    values = {
        "prompts": prompts, "reference": {"path": str(images)}, "images": {"size": 64},
        "networks": {"features": "efficientnet"}, "metrics": ["kernel_distance", "recall", "spread", "sharpness"],
    }  # fmt: skip
    file = folder / f"{asked.style}-{asked.measure}.yaml"
    write_file(file, yaml.safe_dump(values).encode())
    return str(file)


def _budget(asked: argparse.Namespace) -> str:
    return f"{asked.evaluations}-evaluations" if asked.evaluations else f"{asked.minutes:g}-minutes"


def _folder(name: str) -> str:
    return "-".join("".join(c if c.isalnum() or c in "." else " " for c in name).split())


def _line(result: Mapping[str, Any]) -> str:
    cells = [result["rival"], result["style"], str(result["seed"]), f"{result['core_seconds']:.0f} s"]
    for row in result["rows"]:
        figures = [f"{row['metrics'][m]['value']:.3f}" for m in ("kernel_distance", "alignment", "recall", "sharpness")
                   if m in row["metrics"]]  # fmt: skip
        cells.append(f"{row['protocol']} {row['nfe']}: {' '.join(figures)}")
    return "| " + " | ".join(cells) + " |"


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals")
    parser.add_argument("style", choices=["noto", "lineart", PHOTOGRAPHS])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--evaluations", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(RIVALS))
    parser.add_argument("--measure", choices=["heldout", "validation"], default="heldout")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/finetune"))
    asked = parser.parse_args()
    if (asked.style == PHOTOGRAPHS) != (asked.data is not None):
        parser.error(f"--data is the folder that benchmarks/photographs.py makes, of {PHOTOGRAPHS} alone")
    return asked


if __name__ == "__main__":
    main()
