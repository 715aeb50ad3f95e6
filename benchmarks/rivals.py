"""A few-step model moved to a style in every way that somebody would try, each for the same time of one core.

    OMP_NUM_THREADS=1 python -m benchmarks.rivals noto|lineart|photographs [--minutes 5] [--seed 0] [--only NAME ...]
        [--images N] [--evaluations N] [--data DIR] [--measure validation] [--out results/finetune]

A rival's first updates are timed, and then as many are made as take `--minutes` of processor time; with `--evaluations`
as many as take so many network evaluations (a forward pass counts 1, one with backward 3). Each is measured on captions
of the style held out from its training, and on the benchmark of the start. Run again, it goes on. `photographs` is the
folder that `benchmarks/photographs.py` makes (`--data`), measured without alignment. `--images` trains on so many,
evenly over the set, and counts samples of their captions that are copies of one of them.
"""

import argparse
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

import e2ed2.emoji.protocols  # noqa: F401 - adds its protocols
from benchmarks.cost import evaluations_per_update, timed_train
from e2ed2.data.captions import read_captions
from e2ed2.data.decoding import read_image
from e2ed2.emoji.dataset import IMAGE_SIZE
from e2ed2.emoji.styles import load_style, write_style
from e2ed2.evaluation.evaluate import evaluate
from e2ed2.finetune.choice import LR
from e2ed2.finetune.near_copies import NUM_COPIED, kept_by_autoencoder, near_copies
from e2ed2.finetune.run import choose_finetune
from e2ed2.recipe.config import Config
from e2ed2.recipe.load import config_of
from e2ed2.sampling.folder import requests_for
from e2ed2.sampling.model import load_model
from e2ed2.system.drawing.pictures import to_picture
from e2ed2.system.files import atomic_folder, write_file
from e2ed2.training.run_folder import recorded_config
from e2ed2.training.stages.keep import SHIPPED

START, SLOW, OLD, PHOTOGRAPHS = "emoji-e2ed2", "emoji-base", "emoji-heldout", "photographs"
WORK = Path("runs/rivals")  # of what is not measured yet
TIMED = 24  # updates whose mean says what one takes
STEPS = 4
PROMPTS = {"objective.keep.prompts": "emoji"}  # those that all of them stay near to
NO_TERMS = {f"objective.{name}.weight": 0 for name in ("l2", "lpips", "mmd", "keep")}
ORDINARY = {**NO_TERMS, "objective.denoising.weight": 1}
LORA = {"trajectory.parameters": "lora", "trajectory.lora_rank": 64}
NOT_KEPT = {"objective.keep.weight": 0}
CONSISTENCY = {"stage": "lcm", "train.lr": 2e-4}  # at the rate of recipes/emoji/lcm.yaml


@dataclass(frozen=True)
class Rival:
    """fields: of a recipe, over those that `finetune` chooses. start: the model it begins from.

    Attributes:
        before: the rival that comes first, from whose model it begins, for `share` of the budget.
        mixed: images of the start, on prompts that none of the measured ones is, for one of the data.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    start: str = START
    before: str | None = None
    share: float = 0.0
    mixed: float = 0.0


RIVALS = {
    "ours": Rival(),
    "ours, last step's gradient": Rival({"trajectory.num_backprop_steps": 1}),
    "ours, LoRA": Rival(LORA),
    "ours, without keep": Rival(NOT_KEPT),
    "ours, without keep, a third of the rate": Rival({**NOT_KEPT, "train.lr": LR / 3}),
    "ours, without keep, average 0.999": Rival({**NOT_KEPT, "train.ema_decay": 0.999}),
    "ours, without keep, the start's images mixed in": Rival(NOT_KEPT, mixed=0.5),
    "ours and the ordinary loss": Rival({"objective.denoising.weight": 1}),
    "ours from the ordinary loss": Rival(before="ordinary, 3e-4", share=0.25),
    "ours from consistency": Rival(before="consistency", share=0.25),
    "ordinary, 1e-4": Rival({**ORDINARY, "train.lr": 1e-4}),
    "ordinary, 3e-4": Rival({**ORDINARY, "train.lr": 3e-4}),
    "ordinary, 1e-3": Rival({**ORDINARY, "train.lr": 1e-3}),
    "ordinary, LoRA, 1e-3": Rival({**ORDINARY, **LORA, "train.lr": 1e-3}),
    "ordinary, LoRA, 3e-3": Rival({**ORDINARY, **LORA, "train.lr": 3e-3}),
    "consistency": Rival({**CONSISTENCY, "consistency.teacher": SLOW, "consistency.guidance_scale": 1}),
    "the slow model, ordinary": Rival({**ORDINARY, "train.lr": 3e-4}, start=SLOW),
    "the slow model, distilled again": Rival(CONSISTENCY, before="the slow model, ordinary", share=0.5),
}


def main() -> None:
    asked = _asked()
    for name in asked.only or RIVALS:
        file = asked.out / asked.style / f"{_folder(name)}-{_budget(asked)}-seed-{asked.seed}.json"
        if not file.exists():
            folder = WORK / asked.style / file.stem
            write_file(file, (json.dumps(run(name, asked, folder), indent=1) + "\n").encode())
            shutil.rmtree(folder)
        print(_line(json.loads(file.read_text())), flush=True)


def run(name: str, asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train a rival and measure it; what is in `folder` already is used again."""
    rival = RIVALS[name]
    data = _data(asked, folder / "images", rival.mixed)
    start, spent = rival.start, Spent(0, 0, 0.0)
    if rival.before is not None:
        before = RIVALS[rival.before]
        model, spent = _trained(before.fields, before.start, asked, data, folder / "before", rival.share)
        start = str(model)
    model, more = _trained(rival.fields, start, asked, data, folder / "run", 1 - rival.share)
    spent = Spent(spent.updates + more.updates, spent.evaluations + more.evaluations, spent.seconds + more.seconds)
    style = _protocol(asked, folder)
    rows = []
    steps = (STEPS, 1, 20) if "objective.denoising.weight" in rival.fields else (STEPS, 1)
    for protocol, nfe in [*((style, k) for k in steps), (OLD, STEPS)]:
        out = folder / f"{Path(protocol).stem}-{nfe}"
        row = evaluate(str(model), protocol, steps=nfe, seed=asked.seed, out=out, keep="nothing")
        assert row is not None
        kept = ("protocol", "nfe", "num_images", "reference", "metrics")
        rows.append({key: row[key] for key in kept})
    return {
        "rival": name, "style": asked.style, "seed": asked.seed, "budget": _budget(asked), "updates": spent.updates,
        "network_evaluations": spent.evaluations, "core_seconds": round(spent.seconds, 1), "rows": rows,
        **({"copies": _copies(model, data)} if asked.images else {}),
    }  # fmt: skip


def _data(asked: argparse.Namespace, folder: Path, mixed: float) -> Path:
    """A folder of the images that are trained on."""
    if folder.exists():
        return folder
    whole = asked.data / "train" if asked.data else folder.with_name("whole")
    if not whole.exists():
        write_style(load_style(asked.style, "train"), whole)
    with atomic_folder(folder) as temporary:
        shutil.copytree(whole, temporary, dirs_exist_ok=True)
        _choose(asked, temporary, mixed)
    return folder


def _choose(asked: argparse.Namespace, folder: Path, mixed: float) -> None:
    """Keep `--images` of a folder, and put the start's own beside them."""
    files = sorted(folder.glob("*.png"))
    if asked.images:
        kept = {files[i * len(files) // asked.images] for i in range(asked.images)}
        for file in set(files) - kept:
            file.unlink()
            file.with_suffix(".txt").unlink()
        files = sorted(kept)
    if count := round(mixed * len(files)):
        prompts = read_captions(SHIPPED["emoji"], "prompts")
        requests = requests_for(prompts, -(-count // len(prompts)), asked.seed)[:count]
        for number, image in enumerate(load_model(START, STEPS).sampler(requests)):
            to_picture(image).save(folder / f"start-{number}.png")
            (folder / f"start-{number}.txt").write_text(f"{requests[number].prompt}\n")


def _copies(model: Path, data: Path) -> dict[str, Any]:
    """How many samples of the captions that were trained on are copies of one of their images."""
    files = sorted(data.glob("*.png"))
    images = torch.stack([read_image(file.read_bytes(), IMAGE_SIZE) for file in files])
    prompts = [file.with_suffix(".txt").read_text().strip() for file in files]
    made = load_model(str(model), STEPS).sampler(requests_for(prompts, 2, 0))
    found = near_copies(made, images, kept_by_autoencoder(model, images[:NUM_COPIED]))
    return {"samples": len(made), "copies": int(found.is_copy.sum()), "found": found.found, "false": found.false}


class Spent(NamedTuple):
    """What a training took."""

    updates: int
    evaluations: int
    seconds: float


def _trained(
    fields: Mapping[str, Any], start: str, asked: argparse.Namespace, data: Path, run_dir: Path, share: float
) -> tuple[Path, Spent]:
    """A rival's model after its share of the budget."""
    about = run_dir.with_suffix(".json")
    if about.exists():
        return run_dir / "model", Spent(*json.loads(about.read_text()))
    each = evaluations_per_update(_config(fields, start, asked, data, run_dir, 1))
    if recorded := recorded_config(run_dir):  # begun before
        updates = recorded["train"]["max_train_steps"]
    elif asked.evaluations:
        updates = max(1, round(share * asked.evaluations / each))
    else:
        timed = run_dir.with_name("timed")
        shutil.rmtree(timed, ignore_errors=True)
        _, seconds = timed_train(_config(fields, start, asked, data, timed, TIMED))
        updates = max(1, math.floor(share * asked.minutes * 60 / seconds))
    model, seconds = timed_train(_config(fields, start, asked, data, run_dir, updates))
    spent = Spent(updates, round(each * updates), seconds * updates)
    write_file(about, json.dumps(spent).encode())
    return model, spent


def _config(
    fields: Mapping[str, Any], start: str, asked: argparse.Namespace, data: Path, run_dir: Path, updates: int
) -> Config:
    """What `finetune` chooses, with a rival's fields; of another stage its data and training alone."""
    own = PROMPTS | {"train.max_train_steps": updates, "train.seed": asked.seed, "train.preview_every": 10**6}
    other = "stage" in fields
    given = [f"{name}={json.dumps(value)}" for name, value in (own if other else {**own, **fields}).items()]
    config = choose_finetune(start, str(data), run_dir, steps=STEPS, overrides=given).config
    if not other:
        return config
    values = config.model_dump(mode="json", include={"run", "model", "data", "train"})
    values["trajectory"] = {"num_inference_steps": STEPS}
    return config_of(values, [f"{name}={json.dumps(value)}" for name, value in fields.items()])


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
    budget = f"{asked.evaluations}-evaluations" if asked.evaluations else f"{asked.minutes:g}-minutes"
    return f"{asked.images}-images-{budget}" if asked.images else budget


def _folder(name: str) -> str:
    return "-".join("".join(c if c.isalnum() or c in "." else " " for c in name).split())


def _line(result: Mapping[str, Any]) -> str:
    cells = [result["rival"], result["style"], str(result["seed"]), f"{result['core_seconds']:.0f} s"]
    for row in result["rows"]:
        figures = [f"{row['metrics'][m]['value']:.3f}" for m in ("kernel_distance", "alignment", "recall", "sharpness")
                   if m in row["metrics"]]  # fmt: skip
        cells.append(f"{row['protocol']} {row['nfe']}: {' '.join(figures)}")
    if "copies" in result:
        cells.append("copies {copies} of {samples}".format(**result["copies"]))
    return "| " + " | ".join(cells) + " |"


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals")
    parser.add_argument("style", choices=["noto", "lineart", PHOTOGRAPHS])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--evaluations", type=int)
    parser.add_argument("--images", type=int)
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
