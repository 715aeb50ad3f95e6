"""Files that sampling reads back, mangled: manifests, and the YAML of baselines up to their first image."""

import json

import pytest
import yaml

from e2ed2.sampling.baselines import FOLDER, Baseline, PipelineSampler, read_baseline
from e2ed2.sampling.finished_images import images_of_prompts
from e2ed2.sampling.folder import claim_folder, read_images, read_manifest
from e2ed2.sampling.generate import Request
from e2ed2.system.errors import UserError
from tests.evaluation.tiny import draw_images
from tests.mangle import mangled_bytes, mangled_json, mangled_values, share_taken
from tests.models.tiny import SIDE, save_tiny


def test_mangled_manifests(tmp_path):
    draw_images(tmp_path / "images", 3, side=16)
    rows = [{"file": f"images/{i:04d}.png", "prompt": f"cat {i}", "seed": i} for i in range(3)]
    values = {"made_by": "e2ed2 0.1.0", "model": "m", "nfe": 4, "images_per_second": 1.5, "images": rows}

    def damage(rng):
        (tmp_path / "manifest.json").write_bytes(mangled_json(values, rng))

    prompts = [f"cat {i}" for i in range(3)]
    assert 0 < share_taken(damage, lambda: claim_folder(tmp_path, "manifest.json"), 150) < 1
    assert 0 < share_taken(damage, lambda: images_of_prompts("m", tmp_path / "images", prompts), 150) < 1
    assert share_taken(damage, lambda: read_images(tmp_path), 150) == 1, "what is no image of ours is left out"
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    manifest = read_manifest(tmp_path)
    assert manifest is not None and [row.seed for row in manifest.images] == [0, 1, 2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny("StableDiffusionPipeline", tmp_path_factory.mktemp("model") / "m")


def test_mangled_baselines(tmp_path):
    shipped = [path.read_bytes() for path in sorted(FOLDER.glob("*.yaml"))]
    path = tmp_path / "a.yaml"

    def damage(rng):
        if rng.random() < 0.5:
            path.write_bytes(mangled_bytes(rng.choice(shipped), rng))
        else:
            path.write_text(yaml.safe_dump(mangled_values(yaml.safe_load(rng.choice(shipped)), rng)))

    assert 0 < share_taken(damage, lambda: read_baseline(str(path)), 150) < 1


def test_mangled_calls_are_refused_before_or_at_the_first_image(model):
    call = {"num_inference_steps": 1, "guidance_scale": 2.0, "height": SIDE, "width": SIDE, "eta": 0.0}
    calls = []

    def damage(rng):
        changed = mangled_values(call, rng)
        changed = changed if isinstance(changed, dict) else call
        for name in ("num_inference_steps", "height", "width"):  # large ones are a wish, not a mistake
            if isinstance(changed.get(name), int) and changed[name] > SIDE:
                changed[name] = SIDE
        calls.append(Baseline(model=str(model), call=changed))

    assert 0 < share_taken(damage, lambda: PipelineSampler(calls[-1])([Request("a cat", 0)]), 15) < 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"num_inference_step": 4}, "call.num_inference_step: StableDiffusionPipeline has no such argument"),
        ({"prompt": "x"}, "call.prompt: StableDiffusionPipeline has no such argument, or it is set here"),
        ({"num_inference_steps": 0}, "call.num_inference_steps 0: must be 1 to 1000"),
        ({"num_inference_steps": "4"}, "call.num_inference_steps: .*valid integer, found '4'"),
        ({"num_inference_steps": None}, "call.num_inference_steps: .*valid integer, found None"),
        ({"guidance_scale": "big"}, "call.guidance_scale: .*valid number, found 'big'"),
        ({"clip_skip": 99}, "its call is refused by StableDiffusionPipeline .*out of range"),
    ],
)
def test_a_call_that_the_pipeline_does_not_have_is_named(model, call, message):
    with pytest.raises(UserError, match=message):
        PipelineSampler(Baseline(model=str(model), call=call))([Request("a cat", 0)])


def test_a_scheduler_that_is_none_is_named(model):
    for name in ("UNet2DConditionModel", "nothing"):
        with pytest.raises(UserError, match=f"scheduler.class: {name} is no scheduler of diffusers"):
            PipelineSampler(Baseline(model=str(model), scheduler={"class": name}))
