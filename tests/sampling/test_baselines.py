"""The baselines of Table 1 on tiny copies in their true classes: the pipeline's own call, its NFE, the whole table."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from e2ed2 import cli
from e2ed2.models.families import network_of
from e2ed2.reports.published import published_figures
from e2ed2.sampling import baselines as base
from e2ed2.sampling.generate import Request
from e2ed2.sampling.model import load_model
from e2ed2.system.errors import UserError
from tests.models.tiny import SCALED_LINEAR, SIDE, save_tiny

SHIPPED = base.FOLDER
REQUESTS = [Request("a cat", 3), Request("a dog", 4), Request("a cat", 5)]
NFE = {row.models[0]: row.nfe for row in reversed(published_figures("coco30k")) if row.models}


def tiny_pipeline(name: str, folder: Path) -> dict[str, object]:
    """Saves a tiny copy of a baseline's model; what its YAML changes to on it."""
    import diffusers

    small: dict[str, object] = {"height": SIDE, "width": SIDE}
    if name == "lcm":
        scheduler = diffusers.LCMScheduler(**SCALED_LINEAR)
        save_tiny("LatentConsistencyModelPipeline", folder, scheduler=scheduler, time_cond_proj_dim=16)
    elif name == "pixart-delta":
        save_tiny("PixArtAlphaPipeline", folder, scheduler=diffusers.LCMScheduler(beta_schedule="linear"))
        small["use_resolution_binning"] = False
    else:
        turbo = diffusers.EulerAncestralDiscreteScheduler(**SCALED_LINEAR, timestep_spacing="trailing")
        save_tiny("StableDiffusionXLPipeline", folder, scheduler=turbo if name == "sdxl-turbo" else None)
    return small


@pytest.fixture(scope="module")
def tiny_baselines(tmp_path_factory) -> Path:
    """The shipped YAML files, each on its tiny copy at 32 px."""
    root = tmp_path_factory.mktemp("baselines")
    for path in sorted(SHIPPED.glob("*.yaml")):
        values = yaml.safe_load(path.read_text())
        folder = root / "models" / path.stem
        values["call"] |= tiny_pipeline(path.stem, folder)
        values |= {"model": str(folder), "variant": None}
        if "network" in values:
            weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
            values["network"] = str(root / "models" / "other_unet.safetensors")
            save_file({name: tensor * 0.9 for name, tensor in weights.items()}, values["network"])
        (root / path.name).write_text(yaml.safe_dump(values))
    return root


@pytest.fixture
def tiny(tiny_baselines, monkeypatch):
    monkeypatch.setattr(base, "FOLDER", tiny_baselines)


@pytest.mark.parametrize("name", sorted(path.stem for path in SHIPPED.glob("*.yaml")))
def test_the_pipelines_own_call_at_the_papers_nfe(name, tiny, tiny_baselines):
    loaded = load_model(name)
    rows = []
    network = network_of(loaded.sampler.pipeline)
    hook = network.register_forward_hook(lambda module, arguments, out: rows.append(len(out[0])))
    images = loaded.sampler(REQUESTS, batch_size=2)
    hook.remove()
    assert images.shape == (3, 3, SIDE, SIDE) and images.dtype == torch.uint8
    assert sum(rows) == loaded.sampler.nfe * len(REQUESTS) == NFE[name] * len(REQUESTS)
    # plain diffusers, one image alone
    values = yaml.safe_load((tiny_baselines / f"{name}.yaml").read_text())
    generator = torch.Generator().manual_seed(4)
    alone = loaded.sampler.pipeline("a dog", generator=generator, output_type="np", **values["call"]).images[0]
    expected = torch.from_numpy((alone * 255).round()).permute(2, 0, 1)
    assert (images[1].float() - expected).abs().max() <= 1


def test_lightning_has_its_own_network_and_scheduler(tiny, tiny_baselines):
    pipeline = load_model("sdxl-lightning").sampler.pipeline
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
    other = load_file(tiny_baselines / "models" / "other_unet.safetensors")
    assert all(torch.equal(tensor, other[key]) for key, tensor in pipeline.unet.state_dict().items())


def test_steps_and_settings_are_other_images(tiny, tiny_baselines):
    first, again, fewer = load_model("pixart-delta"), load_model("pixart-delta"), load_model("pixart-delta", 3)
    assert first.sha256 == again.sha256 != fewer.sha256
    assert fewer.sampler.nfe == fewer.num_inference_steps == 3


def test_nothing_is_marked(tiny_baselines, monkeypatch):
    from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl as sdxl

    class Watermarker:
        def apply_watermark(self, images):
            return images * 0

    monkeypatch.setattr(sdxl, "is_invisible_watermark_available", lambda: True)
    monkeypatch.setattr(sdxl, "StableDiffusionXLWatermarker", Watermarker, raising=False)
    assert sdxl.StableDiffusionXLPipeline.from_pretrained(tiny_baselines / "models" / "sdxl").watermark is not None
    marked = load_model(str(tiny_baselines / "sdxl.yaml"), 1).sampler(REQUESTS[:1])
    monkeypatch.undo()
    assert torch.equal(marked, load_model(str(tiny_baselines / "sdxl.yaml"), 1).sampler(REQUESTS[:1]))


def test_captions_are_asked_as_they_are():
    assert base.read_baseline("pixart-delta").call["clean_caption"] is False


@pytest.mark.parametrize(
    ("scheduler", "call", "steps", "evaluations"),
    [
        ("HeunDiscreteScheduler", {"num_inference_steps": 5}, 5, 2 * 5 - 1),
        ("PNDMScheduler", {"num_inference_steps": 5}, 5, 5 + 1),  # one step is made twice, to start
        ("EulerDiscreteScheduler", {"timesteps": [999, 600, 200]}, 3, 3),
        ("EulerDiscreteScheduler", {"sigmas": [14.6, 3.0, 0.5, 0.0]}, 3, 3),  # the last one is the image
        ("LCMScheduler", {"num_inference_steps": 2, "guidance_scale": 3.0}, 2, 4),
    ],
)
def test_nfe_are_what_the_network_is_asked(tiny_baselines, tmp_path, scheduler, call, steps, evaluations):
    values = {
        "model": str(tiny_baselines / "models" / "sdxl"),
        "scheduler": {"class": scheduler, **({"skip_prk_steps": True} if scheduler == "PNDMScheduler" else {})},
        "call": {"guidance_scale": 0.0, "height": SIDE, "width": SIDE, **call},
    }
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(values))
    loaded = load_model(str(tmp_path / "a.yaml"))
    rows = []
    network_of(loaded.sampler.pipeline).register_forward_hook(lambda module, inputs, out: rows.append(len(out[0])))
    loaded.sampler(REQUESTS[:1])
    assert (loaded.num_inference_steps, loaded.sampler.nfe, sum(rows)) == (steps, evaluations, evaluations)
    if "num_inference_steps" not in call:
        assert load_model(str(tmp_path / "a.yaml"), 3).sha256 == loaded.sha256
        with pytest.raises(UserError, match="--steps 4: the (timesteps|sigmas) of .*sdxl make 3; leave it out"):
            load_model(str(tmp_path / "a.yaml"), 4)


def test_an_image_that_is_not_finite_is_named(tiny_baselines, tiny_model):
    for model in (str(tiny_baselines / "sdxl.yaml"), str(tiny_model)):
        sampler = load_model(model, 1).sampler
        decoder = getattr(sampler, "pipeline", None) or sampler._pipeline
        decode = decoder.vae.decode

        def broken(latents, *args, decode=decode, **options):
            decoded = decode(latents, *args, **options)
            pixels = decoded[0] if isinstance(decoded, tuple) else decoded.sample
            pixels[1, 0, 3, 4] = float("nan")
            return decoded

        decoder.vae.decode = broken
        with pytest.raises(UserError, match="prompt 'a dog', seed 4: the image has pixels that are not finite"):
            sampler(REQUESTS)


def test_mistakes_are_named(tmp_path):
    (tmp_path / "a.yaml").write_text("model: x\nstepz: 3\n")
    with pytest.raises(UserError, match="a.yaml: stepz: Extra inputs"):
        load_model(str(tmp_path / "a.yaml"))
    with pytest.raises(UserError, match="none.yaml: No such file or directory; see .* for examples"):
        load_model(str(tmp_path / "none.yaml"))
    save_tiny("StableDiffusionXLPipeline", tmp_path / "sdxl")
    (tmp_path / "b.yaml").write_text(f"model: {tmp_path / 'sdxl'}\nscheduler: {{class: NoSuchScheduler}}\n")
    with pytest.raises(UserError, match="sdxl: its scheduler cannot be made .*NoSuchScheduler"):
        load_model(str(tmp_path / "b.yaml"))
    lines = f"model: {tmp_path / 'sdxl'}\nscheduler: {{class: DDIMScheduler}}\ncall: {{sigmas: [3.0, 0.0]}}\n"
    (tmp_path / "c.yaml").write_text(lines)
    with pytest.raises(UserError, match=r"call.sigmas \[3.0, 0.0\]: DDIMScheduler does not take it"):
        load_model(str(tmp_path / "c.yaml"))


@pytest.mark.slow
def test_table_1_from_the_command_line(tiny, tiny_model, protocol, tmp_path, monkeypatch, capfd):
    """Every row measured under COCO's name, two under HW's; one comparison of all, with grid and page."""

    def command(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["e2ed2", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0, capfd.readouterr().err
        return capfd.readouterr().out

    coco = protocol("coco30k.yaml", metrics=["fid", "clip_score"])
    hw = protocol("hw30k.yaml", images={"size": 16}, metrics=["fid"])
    asked = [(coco, name, None) for name in ("sdxl", "sdxl-turbo", "sdxl-lightning", "lcm", "pixart-delta", tiny_model)]
    asked += [(coco, "pixart-delta", 3), (coco, tiny_model, 3), (hw, "pixart-delta", None), (hw, tiny_model, None)]
    folders = []
    for i, (path, model, steps) in enumerate(asked):
        folders.append(tmp_path / f"row-{i}")
        options = ["--steps", steps] if steps else []
        command("evaluate", model, "--protocol", path, "--out", folders[-1], "--batch-size", 12, *options, "--json")
    table = command("compare", *folders, "--baseline", folders[4], "--out", tmp_path / "table", "--zoom", "0.2,0.2,0.5")
    assert table.count("Protocol `") == 2
    first = table.split("Protocol `")[1]
    lines = [line.split(" | ") for line in first.splitlines() if line.startswith("| ")]
    assert [(line[0].removeprefix("| "), line[2]) for line in lines[2:7]] == [
        ("sdxl", "32"), ("sdxl-turbo", "4"), ("sdxl-lightning", "4"), ("lcm", "4"), ("pixart-delta", "4"),
    ]  # fmt: skip
    assert lines[6][-3:] == ["28.49", "30.83", "E2ED2, Table 1 |"] and lines[8][-3] == "28.29"
    assert first.count("Less pixart-delta at 4 NFE") == 1
    assert {p.name.split("-")[0] for p in (tmp_path / "table").iterdir()} == {"table.md", "compare.html", "grid"}
    assert json.loads(command("compare", *folders, "--json"))[1]["protocol"] == "hw30k"
