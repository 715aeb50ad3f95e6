"""A suite of three rows, and training and evaluation that only take notes."""

import json
from pathlib import Path

import pytest
import yaml

from e2ed2.ablation import run as ablation
from e2ed2.system.files import write_file

RECIPE = {"stage": "e2ed2", "run": {"dir": "unused"}, "model": {"path": "emoji-lcm"}}
SUITE = {
    "recipe": "recipe.yaml",
    "fields": {"train.max_train_steps": 3},
    "steps": [4, 1],
    "seeds": [0, 1],
    "baseline": "L2",
    "rows": {
        "start": {"model": "emoji-lcm"},
        "L1": {"objective.l1.weight": 1},
        "L2": {"objective.l2.weight": 1},
    },
    "quick": {"seeds": [5], "fields": {"train.lr": 1e-3}},
}


@pytest.fixture
def suite_file(tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    path = tmp_path / "suite.yaml"
    path.write_text(yaml.safe_dump(SUITE, sort_keys=False))
    return path


@pytest.fixture
def calls(monkeypatch):
    """Training and evaluation replaced by what they were called with; L1 costs twice what L2 does."""
    made = {"train": [], "evaluate": [], "weights": "first"}

    def train(config, say, tick, watch):
        made["train"].append(config)
        (config.run.dir / "model").mkdir(parents=True, exist_ok=True)
        (config.run.dir / "config.yaml").write_text(config.to_yaml())
        rate = 5.0 if config.objective.l1.weight else 10.0
        row = {"global_step": 1, "images_seen": 1, "images_per_second": rate, "peak_memory_bytes": 100}
        (config.run.dir / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        return config.run.dir / "model"

    def evaluate(model, protocol, *, steps, num_images, seed, out, **options):
        made["evaluate"].append((model, steps, seed))
        value = 0.1 * steps + seed
        metrics = {"kernel_distance": {"value": value, "low": value - 0.1, "high": value + 0.1}}
        about = {"model": model, "model_sha256": made["weights"], "protocol": protocol, "nfe": steps, "seed": seed}
        about["reference"] = "emoji"
        about |= {"protocol_sha256": "a" * 64, "num_images": num_images or 8, "metrics": metrics}
        write_file(out / "evaluation.json", json.dumps(about).encode())
        return about

    monkeypatch.setattr(ablation, "train", train)
    monkeypatch.setattr(ablation, "evaluate", evaluate)
    monkeypatch.setattr(ablation, "resolve_model", Path)
    monkeypatch.setattr(ablation, "model_sha256", lambda folder: made["weights"])
    return made
