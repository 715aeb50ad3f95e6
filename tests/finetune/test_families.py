"""Models that people have today, moved by `e2ed2 finetune` and drawn alike by `e2ed2 sample` and plain diffusers."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.evaluation.tiny import draw_images
from tests.models.tiny import CLASSES, SIDE, TODAY, save_tiny
from tests.test_cli import run

WEIGHTS = "diffusion_pytorch_model.safetensors"
QUICK = ["train.max_train_steps=2", "train.micro_batch_size=4", "train.gradient_accumulation_steps=1"]
QUICK += ["train.lr=1e-2", "train.ema_decay=0", "train.mixed_precision=no", "objective.keep.batch_size=2"]


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = draw_images(tmp_path / "photos", 8, SIDE)
    for i, word in enumerate(CLASSES[:8]):
        (folder / f"{i:04d}.txt").write_text(word)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("class_name", TODAY)
def test_a_model_of_today_is_moved_and_drawn_as_in_plain_diffusers(class_name, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path / "cache"))
    start = save_tiny(class_name, tmp_path / "start")
    (tmp_path / "prompts.txt").write_text("".join(f"{word}\n" for word in CLASSES))
    command = ["finetune", start, photos, "--steps", 4, "--out", tmp_path / "run", *QUICK]
    assert run(monkeypatch, *command, f"objective.keep.prompts={tmp_path / 'prompts.txt'}") == 0
    folder = tmp_path / "run" / "model"

    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)[1]
    monkeypatch.chdir(folder)
    scope: dict[str, Any] = {}
    exec(code, scope)
    theirs = np.array(scope["image"]).astype(float)

    assert run(monkeypatch, "sample", folder, scope["prompt"], "--num", 1, "--out", tmp_path / "out") == 0
    (made,) = (tmp_path / "out" / "images").glob("*.png")
    ours = np.array(Image.open(made)).astype(float)
    assert ours.shape == theirs.shape == (SIDE, SIDE, 3) and ours.std() > 5
    assert np.abs(ours - theirs).mean() < 1
    before, after = (load_file(at / "transformer" / WEIGHTS) for at in (start, folder))
    assert before.keys() == after.keys() and any(not torch.equal(before[name], after[name]) for name in before)
