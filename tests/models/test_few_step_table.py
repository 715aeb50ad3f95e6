"""Models made for few steps: which call each is known to want."""

import diffusers
import pytest

from e2ed2.models.families import FAMILIES
from e2ed2.models.folders.few_step import FewStepCall, few_step_table, known_call
from e2ed2.models.folders.hub import is_hub_id
from e2ed2.models.scheduler import few_step_solver
from e2ed2.samplers import SOLVERS
from e2ed2.sampling.baselines import baseline_names, read_baseline

SDXL, PLAIN = "stabilityai/stable-diffusion-xl-base-1.0", {"_class_name": "EulerDiscreteScheduler"}
TURBO = {"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}
LCM = {"_class_name": "LCMScheduler"}


def short(call: FewStepCall | None) -> tuple | None:
    """(steps, solver, guidance, whether any number of steps, side)."""
    if call is None:
        return None
    return call.num_inference_steps, call.solver, call.guidance_scale, call.any_steps, call.side


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["stabilityai/sdxl-turbo"], (4, "ancestral", 1, True, 512)),
        (["stabilityai/sd-turbo"], (4, "ddim", 1, True, 512)),
        (["SimianLuo/LCM_Dreamshaper_v7"], (4, "lcm", 8, True, 768)),
        ([SDXL, "latent-consistency/lcm-sdxl/unet/diffusion_pytorch_model.safetensors"], (4, "lcm", 8, True, None)),
        ([SDXL, "latent-consistency/lcm-lora-sdxl"], (4, "lcm", 1, True, None)),
        (["PixArt-alpha/PixArt-LCM-XL-2-1024-MS"], (4, "lcm", 1, True, 1024)),
        ([SDXL, "ByteDance/SDXL-Lightning/sdxl_lightning_2step_unet.safetensors"], (2, "ddim", 1, False, 1024)),
        ([SDXL, "/models/sdxl_lightning_8step_lora.safetensors"], (8, "ddim", 1, False, 1024)),
        (["org/model", "ByteDance/Hyper-SD/Hyper-SD15-4steps-lora.safetensors"], (4, "ddim", 1, False, None)),
        (["stabilityai/stable-diffusion-3.5-large-turbo"], (4, "euler", 1, False, 1024)),
        (["black-forest-labs/FLUX.2-klein-4B"], (4, "euler", 1, False, 1024)),
        (["Tongyi-MAI/Z-Image-Turbo"], (8, "euler", 1, False, 1024)),
        (["black-forest-labs/FLUX.1-schnell"], (4, "euler", 1, True, 1024)),
        (["org/dev", "alimama-creative/FLUX.1-Turbo-Alpha"], (8, "euler", 3.5, False, 1024)),
        (["org/dev", "/models/Hyper-FLUX.1-dev-8steps-lora.safetensors"], (8, "euler", 3.5, False, 1024)),
        (["org/qwen", "/models/Qwen-Image-Lightning-8steps-V2.0-bf16.safetensors"], (8, "euler", 1, False, 1328)),
        (["Qwen/Qwen-Image", "/models/Qwen-Image-Lightning-4steps-V2.0.safetensors"], (4, "euler", 1, False, 1328)),
        (["Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers"], (4, "scm", 4.5, True, 1024)),
        ([SDXL, "latent-consistency/lcm-lora-sdxl", "org/style-lora"], (4, "lcm", 1, True, None)),
        (["stabilityai/sdxl-turbo", "latent-consistency/lcm-lora-sdxl"], (4, "lcm", 1, True, None)),  # the last
        ([SDXL], None),
        ([SDXL, "ByteDance/SDXL-Lightning"], None),  # which of its files?
        (["stabilityai/sdxl-turbo-2"], None),
        (["org/sdxl-turbo"], None),
        ([SDXL, "/models/sdxl_lightning_1step_unet_x0.safetensors"], None),
        ([], None),
    ],
)
def test_a_name_tells_the_call(names, expected):
    assert short(known_call(names, "StableDiffusionXLPipeline", PLAIN)) == expected


@pytest.mark.parametrize(
    ("pipeline_class", "scheduler", "expected"),
    [
        ("LatentConsistencyModelPipeline", LCM, (4, "lcm", 8.5, True, None)),
        ("StableDiffusionXLPipeline", LCM, (4, "lcm", 1, True, None)),
        ("PixArtAlphaPipeline", LCM, (4, "lcm", 1, True, None)),
        ("StableDiffusionXLPipeline", TURBO, (4, "ancestral", 1, True, None)),
        ("StableDiffusionPipeline", TURBO, (4, "ancestral", 1, True, None)),
        ("StableDiffusionPipeline", TURBO | {"timestep_spacing": "linspace"}, None),
        ("StableDiffusionPipeline", {"_class_name": "EulerAncestralDiscreteScheduler"}, None),
        ("PixArtSigmaPipeline", TURBO, None),
        ("StableDiffusionXLPipeline", {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}, None),
        ("StableDiffusion3Pipeline", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, None),
        ("SanaSprintPipeline", {"_class_name": "SCMScheduler"}, (4, "scm", 4.5, True, None)),
        ("StableDiffusionPipeline", {}, None),
    ],
)
def test_what_a_plain_folder_holds_tells_the_call(pipeline_class, scheduler, expected):
    assert short(known_call(["my/folder"], pipeline_class, scheduler)) == expected


def test_every_entry_is_one_that_can_be_unrolled_and_says_where_it_comes_from():
    table = few_step_table()
    calls = [entry.call for entry in (*table.named, *table.looks)]
    assert {call.solver for call in calls} == SOLVERS.keys()
    assert all(call.source for call in calls)
    names = [name for entry in table.named for name in entry.names]
    assert len(set(names)) == len(names) and all(is_hub_id("/".join(name.split("/")[:2])) for name in names)


def test_a_look_names_classes_of_diffusers_and_the_solver_that_its_scheduler_is_unrolled_with():
    for look in few_step_table().looks:
        assert set(look.pipelines or []) <= FAMILIES.keys()
        options = {"timestep_spacing": look.spacing} if look.spacing else {}
        assert few_step_solver(getattr(diffusers, look.scheduler)(**options)) == look.call.solver


def test_baselines_that_ship_are_called_alike():
    compared = 0
    for name in baseline_names():
        baseline = read_baseline(name)
        found = known_call([baseline.model, *filter(None, [baseline.network])], "StableDiffusionXLPipeline", PLAIN)
        if found is not None:
            call, compared = baseline.call, compared + 1
            assert found.num_inference_steps == call["num_inference_steps"] and found.side == call["height"]
            assert found.guidance_scale == max(1, call["guidance_scale"])
    assert compared == 4
