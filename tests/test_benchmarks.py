"""The check of a GPU: tried whole at tiny size, and what it must do when something goes wrong."""

import json
import resource
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import data, unroll
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import recipes, settings, speed
from benchmarks.gpu.checks import draw
from benchmarks.gpu.reference import FILE, reference
from benchmarks.gpu.report import _recipes, markdown
from e2ed2.data.cache import CachedSet
from e2ed2.models.folders.parts import tensors
from e2ed2.recipe.load import build_config
from tests.models.tiny import SIDE, save_tiny

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


@pytest.mark.slow
def test_a_benchmark_prints_one_flat_object_and_keeps_it_beside_its_table(tmp_path):
    command = [sys.executable, "-m", "benchmarks.startup", "--json", "--out", str(tmp_path)]
    found = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert found["theme"] == "startup" and 0 < found["import_e2ed2"] < found["import_torch"] and found["torch"]
    assert not any(isinstance(value, dict | list) for value in found.values())
    (file,) = tmp_path.glob("startup_*.json")
    assert json.loads(file.read_text()) == found and "| import_torch |" in file.with_suffix(".md").read_text()


def test_what_backward_needs_is_counted_and_what_is_gone_is_not():
    x, weight = torch.ones(4, 8), torch.ones(8, 8, requires_grad=True)
    with unroll.Alive([weight]) as alive:
        kept = (x @ weight).exp()  # 4 x 8 floats: exp keeps what it made, and the product goes
        assert alive.num_bytes == 4 * 8 * 4
        del kept
        assert alive.num_bytes == 0


@pytest.mark.slow
def test_the_cache_that_the_benchmark_of_data_writes_is_one(tmp_path):
    data.write_cache(tmp_path)
    cached = CachedSet(tmp_path)
    assert len(cached) == 512 and [x.shape for x in data.read(cached, torch.tensor([0, 511]))] == [(4, 64, 64)] * 2


@pytest.mark.slow
def test_the_tiny_check_runs_whole_in_a_minute_of_a_processor(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--seconds", "300", "--json", "--out", str(tmp_path)]
    before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (file,) = tmp_path.glob("*.json")
    assert json.loads(file.read_text()) == report and file.with_suffix(".md").read_text() == markdown(report)
    assert [check["name"] for check in report["checks"] if not check["passed"]] == []
    *rows, compiled = report["rows"]
    assert len(rows) == len(settings.tiny()) - 1 and {row["status"] for row in rows} == {"done"}
    assert all(row["images_per_second"] > 0 and row["peak_memory_bytes"] > 2**26 for row in rows)
    assert compiled["is_compiled"] and (compiled["status"] == "done" or compiled["status"].startswith(gpu.NO_TIME))
    assert seconds < 60


@pytest.mark.slow
@pytest.mark.parametrize("class_name", ["FluxPipeline", "QwenImagePipeline", "StableDiffusionXLPipeline"])
def test_a_recipe_is_measured_on_random_weights(class_name, tmp_path):
    folder = save_tiny(class_name, tmp_path)
    solver = "lcm" if class_name == "StableDiffusionXLPipeline" else "euler"
    values = {
        "model": {"path": str(folder), "gradient_checkpointing": True, "frozen_weights": "nf4"},
        "trajectory": {"num_inference_steps": 4, "start": "pure_noise", "solver": solver, "parameters": "lora"},
        "train": {"micro_batch_size": 2, "mixed_precision": "bf16"},
    }
    data = {"source": "folder", "path": tmp_path, "size": SIDE}
    sections = {"stage": "e2ed2", "run": {"dir": tmp_path}, "data": data, "objective": {"l2": {"weight": 1}}}
    config = build_config({**sections, **values})
    row = recipes.measured(config, folder, CPU)
    assert row["images_per_second"] > 0 and 0 < row["counted_bytes"] < row["peak_memory_bytes"]
    row = {"recipe": class_name, "status": "done", **row}
    assert f"| {class_name} | {row['images_per_second']:.3g} |" in "\n".join(_recipes([row]))


def test_every_setting_of_the_table_is_tried_and_one_of_each_kind_before_the_rest():
    ordered = settings.ordered()
    table = product((512, 1024), (1, 2, 4), settings.CHECKPOINTING, (False, True), ("all", "lora"))
    pixart = [s for s in ordered if s.network == settings.PIXART]
    found = {(s.side, s.num_steps, s.checkpointing, s.is_compiled, s.trained) for s in pixart}
    assert found >= set(table) and len(set(ordered)) == len(ordered)
    first = ordered[:16]
    assert {s.checkpointing for s in first[:4]} == set(settings.CHECKPOINTING)
    assert {s.trained for s in first} == {"all", "lora", ""} and {s.is_compiled for s in first} == {False, True}
    assert {s.network for s in first} == {settings.PIXART, settings.SDXL} and {s.num_steps for s in first} == {1, 2, 4}


def test_a_run_without_time_says_so_in_every_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu.checks, "all_checks", list)
    monkeypatch.setattr(gpu.speed, "matrix_rate", lambda device, side: 1e12)
    monkeypatch.setattr(gpu.speed, "pass_flops", lambda *_: 1e12)  # a second each
    assert gpu.main(["--seconds", "5", "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.glob("*.json")
    rows = json.loads(file.read_text())["rows"]
    assert len(rows) == len(settings.ordered()) and all(row["status"].startswith(gpu.NO_TIME) for row in rows)
    assert capsys.readouterr().out.count(gpu.NO_TIME) == len(rows)


def fail(error):
    raise error


@pytest.mark.parametrize(
    "measure, status",
    [
        (lambda: {"value": 1}, "done"),
        (lambda: fail(torch.OutOfMemoryError("Tried 1 GiB")), "out of memory (Tried 1 GiB)"),
        (lambda: fail(RuntimeError("no\ncompiler")), "failed: RuntimeError: no compiler"),
        (lambda: time.sleep(5), "no time left (cut short)"),
    ],
)
def test_what_goes_wrong_is_a_row(measure, status):
    assert gpu._measured(measure, time.monotonic() + 0.2)["status"] == status


def test_memory_for_our_chain_but_not_for_the_plain_loop_is_a_row_without_that_ratio(monkeypatch):
    monkeypatch.setattr(speed, "diffusers_loop", lambda *_: fail(torch.OutOfMemoryError()))
    row = speed.training(settings.Setting(side=64, num_steps=2, checkpointing="steps", batch_size=2), True, CPU, 1e12)
    assert row["chain_to_diffusers"] is None and row["chain_to_bare"] > 0


@pytest.mark.parametrize(("is_compiled", "status"), [(False, 1), (True, 0)])
def test_a_failed_row_is_the_exit_status_but_for_a_compiler(tmp_path, monkeypatch, capsys, is_compiled, status):
    monkeypatch.setattr(gpu.checks, "all_checks", list)
    monkeypatch.setattr(settings, "tiny", lambda: [settings.Setting(side=64, is_compiled=is_compiled)])
    monkeypatch.setattr(speed, "training", lambda *_: fail(ValueError("broken")))
    assert gpu.main(["--tiny", "--out", str(tmp_path)]) == status
    assert "failed: ValueError: broken" in capsys.readouterr().out


@pytest.mark.parametrize("setting", [s for s in settings.tiny() if not s.is_compiled], ids=str)
def test_all_of_a_network_is_on_the_device(setting):
    device = torch.device("meta")  # as any other than the CPU
    model = speed.make(setting, True, device)
    with device:
        stage, _ = speed.chain_of(model, setting)
    assert {x.device for x in [*stage.network.state_dict().values(), *tensors(stage.network).values()]} == {device}
    assert stage.x0.device == stage.cond.embeds.device == device


def test_a_pass_and_its_gradient_cost_three_evaluations():
    assert speed.pass_flops(settings.PIXART, 512, "all", False) == pytest.approx(3 * 1.2388e12, rel=5e-3)


def test_the_saved_pictures_are_what_the_bundled_model_draws():
    saved, now = load_file(FILE), reference()
    torch.testing.assert_close(now["embeds"], saved["embeds"], rtol=1e-4, atol=1e-5)
    assert now["mask"].equal(saved["mask"]) and saved["images"].float().std() > 50
    for images in (now["images"], draw(CPU)):
        assert (images.double() - saved["images"].double()).abs().mean() < 0.02
