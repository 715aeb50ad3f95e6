"""The few-step sampler that a recipe trains, and the start as a model folder with it: the row before the training."""

import shutil

import torch

from e2ed2.models.families import network_of
from e2ed2.models.folders.pipeline import load_pipeline
from e2ed2.recipe.load import build_config
from e2ed2.training.latents.training_set import load_training_set
from e2ed2.training.stages.create import create_stage
from e2ed2.training.stages.start import export_start, few_step_call, load_start
from tests.models.tiny import save_tiny, write_json


def config_of(path, pictures, size=64, **trajectory):
    return build_config(
        {
            "stage": "e2ed2",
            "run": {"dir": "unused"},
            "model": {"path": str(path)},
            "data": {"source": "folder", "path": pictures, "size": size},
            "trajectory": trajectory,
            "objective": {"l2": {"weight": 1}},
        }
    )


def call_of(config):
    return few_step_call(config, *load_start(config, config.data.size))


def test_what_the_recipe_does_not_say_is_the_start_s_own(tiny_model, pictures, tmp_path):
    call = call_of(config_of(tiny_model, pictures))
    assert (call.solver, call.num_inference_steps, call.guidance_scale, call.height) == ("lcm", 4, 1, 64)
    call = call_of(config_of(tiny_model, pictures, 32, num_inference_steps=2, solver="ddim", guidance_scale=3))
    assert (call.solver, call.num_inference_steps, call.guidance_scale, call.width) == ("ddim", 2, 3, 32)
    start = save_tiny("LatentConsistencyModelPipeline", tmp_path / "start", time_cond_proj_dim=8)
    assert call_of(config_of(start, pictures, 32)).guidance_scale == 8.5, "the network is told it"


def test_grids_of_the_start_go_with_its_solver_and_those_of_the_recipe_count_more(tiny_model, pictures, tmp_path):
    start = shutil.copytree(tiny_model, tmp_path / "start")
    write_json(start / "inference.json", timesteps=[999, 700, 400, 100], fewer_timesteps={"2": [999, 300]})
    assert call_of(config_of(start, pictures)).own_grids == {4: [999, 700, 400, 100], 2: [999, 300]}
    assert call_of(config_of(start, pictures, num_inference_steps=3)).own_grids == {2: [999, 300]}
    assert call_of(config_of(start, pictures, solver="ddim")).own_grids == {}
    config = config_of(start, pictures, timesteps=[[999, 500, 300, 50]], parameters="per_step", start="pure_noise")
    assert call_of(config).own_grids == {4: [999, 500, 300, 50]}


def test_the_exported_start_samples_as_the_stage_before_its_first_update(tiny_model, pictures, tmp_path):
    config = config_of(tiny_model, pictures, num_inference_steps=3, solver="ddim")
    folder = tmp_path / "start"
    folder.mkdir()
    export_start(config, folder)
    stage = create_stage(config, load_training_set(config.data, print), torch.device("cpu"), lambda line: None)
    pipeline, inference = load_pipeline(folder)
    assert inference == stage.inference and type(pipeline.scheduler).__name__ == "DPMSolverMultistepScheduler"
    weights, own = network_of(pipeline).state_dict(), network_of(load_pipeline(tiny_model)[0]).state_dict()
    assert weights.keys() == own.keys() and all(torch.equal(x, own[name]) for name, x in weights.items())
    assert pipeline.text_encoder is not None
