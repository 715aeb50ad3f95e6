"""Recipes of two updates on four captioned pictures."""

from pathlib import Path

import pytest

from e2ed2.recipe.load import build_config
from tests.models.tiny import SIDE


@pytest.fixture
def recipe(pictures, tmp_path, monkeypatch):
    """`recipe(run, start, model={}, train={}, **trajectory)` -> the config of an end-to-end run."""
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path / "cache"))

    def make(run: Path, start: Path, model: dict | None = None, train: dict | None = None, **trajectory: object):
        often = {"max_train_steps": 2, "micro_batch_size": 2, "preview_every": 2, "lr": 1e-2, "mixed_precision": "no"}
        return build_config(
            {
                "stage": "e2ed2",
                "run": {"dir": run},
                "model": {"path": str(start), **(model or {})},
                "data": {"source": "folder", "path": pictures, "size": SIDE},
                "trajectory": {"num_inference_steps": 2, "start": "pure_noise", **trajectory},
                "objective": {"l2": {"weight": 1}},
                "train": {**often, **(train or {})},
            }
        )

    return make
