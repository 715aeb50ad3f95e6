"""What earns the gain: the terms, the grids, the states on the sampler's own path, or the gradient through the chain?

    OMP_NUM_THREADS=1 python -m benchmarks.attribution [--only SETTING ...] [--seeds 0 1 2] [--full] [--table]

Each setting is trained for as many network evaluations as the recommended one, an eighth of its full length or, with
`--full`, all of it, and measured on captions never seen and on seen ones, in EfficientNet and in a ResNet. Run again,
it goes on where it stopped. What there is goes into `results/attribution.json`, docs/attribution.md and README's table,
with `--table` nothing else.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.attribution.measure import measured
from benchmarks.attribution.page import write_pages
from benchmarks.attribution.settings import EIGHTH, FULL_UPDATES, SEEDS, SETTINGS, Setting
from benchmarks.cost import evaluations_per_update, timed_train
from e2ed2.emoji.styles import load_style, write_style
from e2ed2.recipe.config import Config
from e2ed2.recipe.load import load_config
from e2ed2.system.files import write_file

BUNDLED = "emoji-e2ed2"  # the recommended setting at full length
WORK, RESULTS = Path("runs/attribution"), Path("results/attribution")


def main() -> None:
    asked = _asked()
    for seed in () if asked.table else asked.seeds:
        for name in asked.only or SETTINGS:
            run(name, seed, "full" if asked.full else "eighth")
    write_pages(RESULTS)


def run(name: str, seed: int, length: str) -> None:
    """Train and measure a setting, where that is not done."""
    file = RESULTS / length / f"{name}-seed-{seed}.json"
    if file.exists():
        return
    setting, folder = SETTINGS[name], WORK / length / f"{name}-seed-{seed}"
    print(f"{name}, seed {seed}", flush=True)
    model, cost = setting.start, {"updates": 0, "network_evaluations": 0, "wall_seconds": 0.0}
    if (name, length) == ("recommended", "full"):
        model = BUNDLED
    elif setting.recipe is not None:
        model, cost = _trained(setting, seed, length, folder)
    rows = measured(model, setting, seed, folder)
    result = {"setting": name, "seed": seed, "length": length, **cost, "rows": rows}
    write_file(file, (json.dumps(result, indent=1) + "\n").encode())
    shutil.rmtree(folder, ignore_errors=True)


def _trained(setting: Setting, seed: int, length: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """The model after as many evaluations as the recommended setting takes, and what it took."""
    about, run_dir = folder / "cost.json", folder / "run"
    if about.exists():
        return str(run_dir / "model"), json.loads(about.read_text())
    share = 1 if length == "full" else EIGHTH
    budget = evaluations_per_update(_config(SETTINGS["recommended"], seed, run_dir, 1)) * FULL_UPDATES / share
    each = evaluations_per_update(_config(setting, seed, run_dir, 1))
    updates = round(budget / each)
    model, seconds = timed_train(_config(setting, seed, run_dir, updates))
    cost = {"updates": updates, "network_evaluations": round(updates * each), "wall_seconds": updates * seconds}
    write_file(about, json.dumps(cost).encode())
    return str(model), cost


def _config(setting: Setting, seed: int, run_dir: Path, updates: int) -> Config:
    own: dict[str, Any] = {
        "model.path": setting.start, "run.dir": str(run_dir), "train.seed": seed, "train.max_train_steps": updates,
        "train.checkpoint_every": 100, "train.preview_every": 10**6,
    }  # fmt: skip
    if setting.style is not None:
        own |= {"data.source": "folder", "data.path": str(_style_folder(setting.style))}
    fields = (own | setting.fields).items()
    return load_config(Path(str(setting.recipe)), [f"{name}={json.dumps(value)}" for name, value in fields])


def _style_folder(style: str) -> Path:
    folder = WORK / style
    if not folder.exists():
        write_style(load_style(style, "train"), folder)
    return folder


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attribution")
    parser.add_argument("--only", nargs="*", choices=list(SETTINGS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--table", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
