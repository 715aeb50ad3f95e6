"""Pipelines of no family here: sampled by their own call, counted, measured; or refused with the reason."""

import json
import sys
from pathlib import Path

import diffusers
import pytest
import torch
import yaml

from e2ed2 import cli
from e2ed2.sampling.generate import Request
from e2ed2.sampling.model import load_model
from e2ed2.sampling.own_call import longest_text, takes_lists
from e2ed2.system.errors import UserError
from tests.models.test_families import difference
from tests.models.tiny import SIDE, flux, save_tiny, stable_diffusion, write_json

REQUESTS = [Request("a cat", 3), Request("a dog with a long tail", 4), Request("a cat", 5)]
SMALL = {"height": SIDE, "width": SIDE}


def of_yaml(path: Path, **values: object) -> str:
    path.write_text(yaml.safe_dump(values))
    return str(path)


def save_other(class_name: str, folder: Path, parts: dict[str, object], **more: object) -> str:
    """A tiny pipeline of another class from the parts of one in `tiny`."""
    getattr(diffusers, class_name)(**parts, **more).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny("FluxPipeline", tmp_path_factory.mktemp("flux") / "model")


def rows_of(sampler, requests, **options) -> tuple[torch.Tensor, list[int]]:
    """The images, and the rows of every evaluation of the network."""
    rows = []
    hook = sampler.pipeline.transformer.register_forward_hook(lambda _, inputs, out: rows.append(len(out[0])))
    images = sampler(requests, **options)
    hook.remove()
    return images, rows


def alone(folder: Path, request: Request, **call: object) -> torch.Tensor:
    """What plain diffusers draws, uint8 [1, 3, H, W]."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    generator = torch.Generator().manual_seed(request.seed)
    images = pipeline(request.prompt, generator=generator, output_type="np", **call).images
    return torch.from_numpy((images * 255).round().astype("uint8")).permute(0, 3, 1, 2)


@pytest.mark.slow
def test_flux_is_sampled_by_its_own_call(folder):
    loaded = load_model(str(folder), 2)
    images, rows = rows_of(loaded.sampler, REQUESTS, batch_size=2)
    assert images.shape == (3, 3, 512, 512) and rows == [2, 2, 1, 1]  # its own size
    assert (loaded.num_inference_steps, loaded.sampler.nfe) == (2, 2)
    assert difference(images[1:2], alone(folder, REQUESTS[1], num_inference_steps=2)) <= 1
    assert difference(images, loaded.sampler(REQUESTS, batch_size=1)) <= 1
    assert images.float().std() > 5 and difference(images[:1], images[2:]) > 5
    assert loaded.num_parameters == sum(p.numel() for p in loaded.sampler.pipeline.transformer.parameters())
    assert loaded.sha256 == load_model(str(folder), 2).sha256 != load_model(str(folder), 3).sha256


def test_the_defaults_are_the_pipeline_s(folder, monkeypatch):
    monkeypatch.setattr("e2ed2.sampling.baselines.PipelineSampler._made", lambda self, batch: torch.zeros(1, 1, 1, 3))
    assert load_model(str(folder)).num_inference_steps == 28


@pytest.mark.parametrize(
    ("call", "steps", "evaluations"),
    [
        ({"num_inference_steps": 3, "guidance_scale": 7.0}, 3, 3),  # the network would be told it, and guides itself
        ({"num_inference_steps": 2, "true_cfg_scale": 2.0, "negative_prompt": "ugly"}, 2, 4),
        ({"sigmas": [1.0, 0.6, 0.2]}, 3, 3),
    ],
)
def test_steps_and_guidance_of_a_baseline_are_counted(folder, tmp_path, call, steps, evaluations):
    loaded = load_model(of_yaml(tmp_path / "a.yaml", model=str(folder), call={**SMALL, **call}))
    images, rows = rows_of(loaded.sampler, REQUESTS[:1])
    assert images.shape == (1, 3, SIDE, SIDE) and sum(rows) == evaluations
    assert (loaded.num_inference_steps, loaded.sampler.nfe) == (steps, evaluations)
    if "sigmas" in call:
        with pytest.raises(UserError, match="--steps 4: the sigmas of .* make 3; leave it out"):
            load_model(str(tmp_path / "a.yaml"), 4)


def test_every_evaluation_of_perturbed_attention_is_counted(tmp_path):
    """Three rows a step: with the prompt, without, and perturbed."""
    model = save_other("StableDiffusionPAGPipeline", tmp_path / "pag", stable_diffusion(), pag_applied_layers="mid")
    call = {"num_inference_steps": 2, "guidance_scale": 3.0, "pag_scale": 2.0, **SMALL}
    loaded = load_model(of_yaml(tmp_path / "a.yaml", model=model, call=call))
    assert loaded.sampler.nfe == 3 * 3  # PNDM makes one of two steps twice
    assert difference(loaded.sampler(REQUESTS), loaded.sampler(REQUESTS, batch_size=1)) <= 1
    assert loaded.too_long(["a " * 20, "a"]) == ["a " * 20]


def test_one_image_at_a_time_where_batches_change_them(tmp_path):
    """It says that it takes lists, and mixes the prompts of a batch."""
    parts = stable_diffusion(scheduler=diffusers.DDIMScheduler())
    model = save_other("StableDiffusionPanoramaPipeline", tmp_path / "model", parts)
    call = {"num_inference_steps": 2, **SMALL}
    loaded = load_model(of_yaml(tmp_path / "a.yaml", model=model, call=call))
    images = loaded.sampler(REQUESTS, batch_size=3)
    assert loaded.sampler.nfe == 4
    assert difference(images[1:2], alone(tmp_path / "model", REQUESTS[1], **call)) <= 1


def test_a_safety_checker_is_off_there_too(tmp_path):
    parts = stable_diffusion(is_filtered=True)
    model = save_other("StableDiffusionPAGPipeline", tmp_path / "pag", parts, pag_applied_layers="mid")
    assert load_model(model, 1).sampler(REQUESTS[:1]).float().std() > 5


def test_one_image_at_a_time_where_the_call_takes_one_generator(folder, tmp_path, monkeypatch):
    assert takes_lists(diffusers.FluxPipeline(**flux()))
    path = of_yaml(tmp_path / "a.yaml", model=str(folder), call={"num_inference_steps": 2, **SMALL})
    together = load_model(path).sampler(REQUESTS)
    types = diffusers.FluxPipeline.__call__.__annotations__
    monkeypatch.setitem(types, "generator", torch.Generator | None)
    images, rows = rows_of(load_model(path).sampler, REQUESTS)
    assert rows == [1] * 6 and difference(images, together) <= 1
    monkeypatch.setitem(types, "generator", "NoSuchType")
    assert not takes_lists(diffusers.FluxPipeline(**flux()))


def test_the_longest_of_its_text_encoders_counts():
    pipeline = diffusers.FluxPipeline(**flux())
    pipeline.tokenizer_2.model_max_length = 100
    assert longest_text(pipeline, 512) == (pipeline.tokenizer_2, 100)
    assert longest_text(pipeline, 40) == (pipeline.tokenizer_2, 40)
    without = dict.fromkeys(["tokenizer", "tokenizer_2"])
    assert longest_text(diffusers.FluxPipeline(**flux() | without), 512) == (None, 0)


REFUSED = {
    "DDPMPipeline": "a DDPMPipeline takes no prompt; give a text-to-image pipeline",
    "StableDiffusionImg2ImgPipeline": "a StableDiffusionImg2ImgPipeline needs an image beside the prompt; give",
    "FluxImg2ImgPipeline": "a FluxImg2ImgPipeline needs an image beside the prompt; give",
    "FluxControlNetPipeline": "a FluxControlNetPipeline needs an image",
    "KandinskyPipeline": "a KandinskyPipeline needs an image",
    "KandinskyV22Pipeline": "a KandinskyV22Pipeline takes no prompt",
    "WanPipeline": "a WanPipeline makes no images, but what has .*num",
    "StableAudioPipeline": "a StableAudioPipeline makes no images, but what has audio",
    "AutoencoderKL": "AutoencoderKL is no pipeline of diffusers",
    "DiffusionPipeline": "a DiffusionPipeline takes no prompt",
    "NoSuchPipeline": "NoSuchPipeline is no pipeline of diffusers 0",
    "os": "os is no pipeline of diffusers",
}


@pytest.mark.parametrize("class_name", REFUSED)
def test_what_draws_nothing_from_a_prompt_is_refused_before_its_weights_are_read(class_name, folder, tmp_path):
    index = json.loads((folder / "model_index.json").read_text())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text(json.dumps(index | {"_class_name": class_name}))
    with pytest.raises(UserError, match=f"model .*model: .*{REFUSED[class_name]}") as told:
        load_model(str(tmp_path / "model"))
    assert "\n" not in str(told.value)


def test_what_needs_an_image_after_all_is_refused_by_a_first_try(tmp_path):
    parts = stable_diffusion()
    del parts["feature_extractor"], parts["safety_checker"]
    low = {"low_res_scheduler": diffusers.DDPMScheduler()}
    model = save_other("StableDiffusionUpscalePipeline", tmp_path / "upscale", parts, **low)
    message = "a StableDiffusionUpscalePipeline draws nothing from a prompt alone, and takes image .*text-to-image"
    with pytest.raises(UserError, match=message):
        load_model(model, 1)


@pytest.mark.slow
def test_whole_classes_are_sampled_by_both_verbs(folder, protocol, tmp_path, monkeypatch, capfd):
    """From the command line: pictures, an evaluation, and a refusal."""

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["e2ed2", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code, *capfd.readouterr()

    path = of_yaml(tmp_path / "flux.yaml", model=str(folder), call={"num_inference_steps": 2, **SMALL})
    code, _, err = command("sample", path, "a cat", "--num", 2, "--out", tmp_path / "out")
    assert code == 0 and len(list((tmp_path / "out" / "images").iterdir())) == 2, err
    asked = ["evaluate", path, "--protocol", protocol(metrics=["fid"]), "--out", tmp_path / "measured", "--json"]
    code, out, err = command(*asked)
    assert code == 0 and json.loads(out)["nfe"] == 2, err
    model = save_tiny("DDPMPipeline", tmp_path / "ddpm")
    for verb in (["sample", model, "a cat"], ["evaluate", model]):
        code, out, err = command(*verb)
        assert code == 2 and "takes no prompt" in err and "Traceback" not in err


def test_nothing_of_a_folder_is_run_or_unpickled(tmp_path):
    folder = save_tiny("FluxPipeline", tmp_path / "model")
    code = f"open({str(tmp_path / 'run')!r}, 'w')\nclass X: pass\nclass FluxPipeline: pass\n"
    for place in (folder, folder / "transformer"):
        (place / "mine.py").write_text(code)
        (place / "pipeline.py").write_text(code)
    index = json.loads((folder / "model_index.json").read_text())
    for changes, message in [
        ({"_class_name": ["mine", "X"]}, r"a \[.*mine.* cannot be used here"),
        ({"transformer": ["mine", "X"]}, "transformer: must be a pair of library"),
        ({"transformer": ["os", "X"]}, "transformer: must be a pair of library"),
        ({"transformer": ["../../x", "X"]}, "transformer: must be a pair of library"),
        ({"transformer": ["flux", "FluxTransformer2DModel"]}, "transformer: must be a pair of library"),
        ({"scheduler": ["diffusers", "NoSuchScheduler"]}, "not a loadable model folder"),
        ({"transformer": [None, None]}, "transformer is missing, which a FluxPipeline needs"),
    ]:
        (folder / "model_index.json").write_text(json.dumps(index | changes))
        with pytest.raises(UserError, match=message):
            load_model(str(folder), 1)
    (folder / "model_index.json").write_text(json.dumps(index))
    for name in ("transformer", "text_encoder", "vae"):
        write_json(folder / name / "config.json", auto_map={"AutoModel": "mine.X", "AutoConfig": "mine.X"})
    path = of_yaml(tmp_path / "a.yaml", model=str(folder), call={"num_inference_steps": 1, **SMALL})
    load_model(path)
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    torch.save({"x": torch.zeros(1)}, weights.with_suffix(".bin"))
    load_model(path)
    weights.unlink()
    with pytest.raises(UserError, match="not a loadable model folder, transformer"):
        load_model(path)
    assert not (tmp_path / "run").exists()
