"""Ten updates of every stage and of two families of pipelines, as they were when they were written down.

A refactor changes none of them. A change that means to alter numbers writes them anew, and shows why:
`python -m pytest tests/training/test_golden.py --write-golden`.
"""

import json
from pathlib import Path

import pytest
import torch

from e2ed2.recipe.load import build_config
from e2ed2.training.log import read_metrics
from e2ed2.training.loop import train
from tests.conftest import tiny_autoencoder
from tests.models.tiny import SIDE, save_tiny
from tests.training.stages.test_chain import AUTOENCODER, DENOISER

FOLDER = Path(__file__).parents[2] / "golden"
# Adam's first steps go by a gradient's sign: at a larger rate what processors round differently grows to 5% in ten.
OFTEN = {"max_train_steps": 10, "micro_batch_size": 8, "log_every": 1, "lr": 1e-5, "mixed_precision": "no"}
MIXED = {  # what the recommended recipe weighs, and the GAN
    "l2": {"weight": 1},
    "lpips": {"weight": 1},
    "mmd": {"weight": 75},
    "patch_energy": {"weight": 1},
    "adversarial": {"weight": 0.01, "num_discriminator_updates": 1},
}
EVERY_STEP_COUNT = {"random_num_steps": True, "num_steps_weights": [12, 6, 4, 3]}
STAGES = {
    "autoencoder": {"objective": {"l1": {"weight": 1}}, "model": {"architecture": AUTOENCODER}},
    "base": {"data": {"caption_dropout": 0.1}, "model": {"architecture": DENOISER}},
    "lcm": {},
    "e2ed2": {"objective": MIXED, "data": {"images_per_caption": 2}, "trajectory": EVERY_STEP_COUNT},
}
FAMILIES = {
    "StableDiffusionXLPipeline": {"parameters": "lora", "num_inference_steps": 2},
    "StableDiffusion3Pipeline": {"num_inference_steps": 2, "start": "pure_noise"},
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch, one_thread):
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path / "cache"))


def trained_and_golden(name, sections, tmp_path, request):
    """Rows of a training, and what they must be; `--write-golden` writes it."""
    run = tmp_path / "run"
    train(build_config({"run": {"dir": run}, "train": OFTEN, **sections}), say=lambda line: None)
    timed = ("images_per_second", "peak_memory_bytes")
    rows = [{k: v for k, v in row.items() if k not in timed} for row in read_metrics(run / "metrics.jsonl")]
    golden = FOLDER / f"{name}.json"
    if request.config.getoption("--write-golden"):
        golden.write_text("[\n" + ",\n".join(f" {json.dumps(row)}" for row in rows) + "\n]\n")
    expected = json.loads(golden.read_text())
    assert len(expected) == OFTEN["max_train_steps"]
    # other processors round differently, most where a gradient has kinks; a mistake moves more
    loose = {"grad_norm": 1e-2}
    return rows, [{k: pytest.approx(value, rel=loose.get(k, 3e-4)) for k, value in row.items()} for row in expected]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_loses_what_it_lost(stage, tiny_emoji, tiny_model, tmp_path, request):
    sections = dict(STAGES[stage])
    torch.manual_seed(1)
    if stage == "base":
        tiny_autoencoder().save_pretrained(tmp_path / "autoencoder")
        sections["model"] = {**sections["model"], "path": str(tmp_path / "autoencoder")}
    elif stage != "autoencoder":
        sections["model"] = {"path": str(tiny_model)}
    rows, golden = trained_and_golden(f"stage_{stage}", {"stage": stage, **sections}, tmp_path, request)
    assert rows == golden


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_loses_what_it_lost(family, pictures, tmp_path, request):
    sections = {
        "stage": "e2ed2",
        "model": {"path": str(save_tiny(family, tmp_path / "start"))},
        "data": {"source": "folder", "path": pictures, "size": SIDE},
        "trajectory": FAMILIES[family],
        "objective": {"l2": {"weight": 1}, "energy": {"weight": 1}, "num_samples": 2},
    }
    sections["train"] = {**OFTEN, "micro_batch_size": 2}
    rows, golden = trained_and_golden(f"family_{family}", sections, tmp_path, request)
    assert rows == golden
