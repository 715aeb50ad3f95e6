"""Model folders: what is written, what is refused, and that our schedule is the scheduler's."""

import json
import os
import shutil

import pytest
import torch

from e2ed2.models.folders.bundled import resolve_model
from e2ed2.models.folders.inference import Inference
from e2ed2.models.folders.pipeline import load_pipeline, save_pipeline
from e2ed2.models.scheduler import noise_scheduler, schedule_of
from e2ed2.schedule import linear_schedule
from e2ed2.system.errors import UserError


def test_a_folder_loads_back_with_its_call(tiny_model):
    pipeline, inference = load_pipeline(tiny_model)
    assert inference == Inference("lcm", 4, 1.0, 64, 64)
    assert pipeline.scheduler.config.beta_schedule == "linear"
    assert torch.allclose(schedule_of(pipeline.scheduler).alphas, linear_schedule().alphas, atol=1e-6)
    assert {p.suffix for p in tiny_model.rglob("*") if "model" in p.name and p.is_file()} <= {".safetensors", ".json"}
    card = (tiny_model / "README.md").read_text()
    assert "num_inference_steps=4" in card and "use_resolution_binning=False" in card


def test_a_saved_folder_does_not_name_the_one_it_came_from(tiny_model, tmp_path):
    pipeline, inference = load_pipeline(tiny_model)
    save_pipeline(pipeline, inference, tmp_path / "again")
    configs = [path for path in (tmp_path / "again").rglob("*.json") if str(tiny_model) in path.read_text()]
    assert configs == [] and load_pipeline(tmp_path / "again")[1] == inference


@pytest.mark.parametrize(("solver", "steps"), [("lcm", 4), ("lcm", 2), ("ddim", 25), ("ddim", 4)])
def test_the_baked_in_scheduler_walks_our_grid(solver, steps):
    scheduler = noise_scheduler(solver, "v_prediction")
    scheduler.set_timesteps(steps)
    ours = Inference(solver, steps, 1.0, 64, 64).grid()
    assert scheduler.timesteps.tolist() == ours.tolist()


def test_a_learned_grid_of_another_length_is_refused():
    with pytest.raises(ValueError, match="4 steps, but timesteps"):
        Inference("lcm", 4, 1.0, 64, 64, timesteps=[999, 499])


def test_nfe_counts_guidance():
    assert Inference("ddim", 25, 2.0, 64, 64).nfe == 50
    assert Inference("lcm", 4, 1.0, 64, 64).nfe == 4


@pytest.mark.parametrize("steps", [0, 51])
def test_steps_outside_the_grid_are_refused(steps):
    with pytest.raises(UserError, match=rf"num_inference_steps {steps}: must be 1 to 50"):
        Inference("lcm", 4, 1.0, 64, 64).grid(steps)


def test_a_pickle_or_no_pipeline_is_refused_before_anything_is_loaded(tiny_model, tmp_path):
    bad = tmp_path / "bad"
    shutil.copytree(tiny_model, bad)
    (bad / "transformer" / "diffusion_pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(UserError, match="diffusion_pytorch_model.bin may run code"):
        load_pipeline(bad)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="not a loadable model folder"):
        load_pipeline(tmp_path / "empty")
    with pytest.raises(UserError, match="emoji-lcm"):
        resolve_model("emoji-lmc")


def test_inference_json_is_the_whole_call(tiny_model):
    keys = set(json.loads((tiny_model / "inference.json").read_text()))
    assert keys == {
        "solver", "num_inference_steps", "guidance_scale", "height", "width",
        "max_sequence_length", "use_resolution_binning", "clean_caption", "timesteps", "fewer_timesteps",
        "transformers",
    }  # fmt: skip


WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
PLACES = [WEIGHTS, "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"]


@pytest.mark.parametrize("place", [*PLACES, "vae/config.json", "model_index.json"])
def test_a_pipe_or_a_device_in_a_model_folder_is_named(tiny_model, tmp_path, place):
    for number, put in enumerate((os.mkfifo, lambda path: path.symlink_to("/dev/zero"))):
        folder = shutil.copytree(tiny_model, tmp_path / str(number))
        (folder / place).unlink()
        put(folder / place)
        with pytest.raises(UserError, match=f"{place}: not a file but a pipe|no model_index.json"):
            load_pipeline(folder)
