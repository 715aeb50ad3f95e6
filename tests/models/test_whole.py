"""Model folders whose files are damaged or do not fit together: each is refused by name when it is loaded."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from e2ed2.models.folders.bundled import resolve_model
from e2ed2.models.folders.index import read_index, text_files
from e2ed2.models.folders.pipeline import load_autoencoder, load_pipeline, load_transformers
from e2ed2.system.errors import UserError
from tests.models.tiny import save_tiny, write_json


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return save_tiny("StableDiffusionXLPipeline", tmp_path_factory.mktemp("whole") / "start")


@pytest.fixture
def start(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "start"))


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("_class_name", ["my_pipeline", "X"], r'a \["my_pipeline", "X"\] cannot be used here; give one of PixArtAlpha'),
        ("_class_name", 3, "a 3 cannot be used here"),
        ("unet", 5, "unet: must be a pair of library .* and class, found 5"),
        ("unet", ["diffusers"], r'unet: must be a pair .*, found \["diffusers"\]'),
        ("vae", ["os", "path"], r"vae: must be a pair of library \(diffusers, transformers"),
        ("unet", ["diffusers", "NoNet"], "unet: diffusers has no network NoNet"),
        ("vae", ["diffusers", "DDIMScheduler"], "vae: diffusers has no network DDIMScheduler"),
        ("text_encoder_2", [None, None], "text_encoder_2 is missing, which a StableDiffusionXLPipeline needs"),
    ],
)
def test_an_index_names_a_known_class_and_pairs_of_names(start, entry, value, message):
    write_json(start / "model_index.json", **{entry: value})
    with pytest.raises(UserError, match=message):
        load_pipeline(start)


def test_an_index_lists_what_is_there(whole):
    index = read_index(whole)
    assert index.parts["unet"] == ("diffusers", "UNet2DConditionModel") and "image_encoder" not in index.parts
    assert index.text_encoders == ["text_encoder", "text_encoder_2"]


@pytest.mark.parametrize(
    ("part", "tensor"),
    [
        ("unet/diffusion_pytorch_model", "conv_in.bias"),
        ("vae/diffusion_pytorch_model", "decoder.conv_out.weight"),
        ("text_encoder/model", None),
        ("text_encoder_2/model", "text_projection.weight"),
    ],
)
def test_a_missing_tensor_is_named(start, part, tensor):
    """Libraries leave it empty, or draw it at random."""
    file = start / f"{part}.safetensors"
    values = load_file(file)
    name = tensor or next(iter(values))
    values.pop(name)
    save_file(values, file)
    with pytest.raises(UserError, match=f"{file.parent.name} lacks 1 of its tensors, such as .*{name.split('.')[-2]}"):
        load_pipeline(start)


def test_tensors_of_another_shape_are_refused(start):
    file = start / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"conv_in.bias": torch.zeros(5)}, file)
    with pytest.raises(UserError, match=r"not a loadable model folder, unet \(.*conv_in.bias"):
        load_pipeline(start)


@pytest.mark.parametrize("is_older", [True, False])
def test_text_encoders_of_older_and_newer_libraries_are_whole(start, is_older):
    """Their names begin with `text_model.` or do not; T5's first table may be there twice."""
    file = start / "text_encoder" / "model.safetensors"
    before = load_pipeline(start)[0].text_encoder.state_dict()
    plain = {name.removeprefix("text_model."): x for name, x in load_file(file).items()}
    save_file({f"text_model.{name}": x for name, x in plain.items()} if is_older else plain, file)
    after = load_pipeline(start)[0].text_encoder.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], x) for name, x in after.items())


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("unet/config.json", {"layers_per_block": 2**63}, "layers_per_block: 9223372036854775808, must be at most"),
        ("unet/config.json", {"layers_per_block": 100_000}, "unet .*asks for far more tensors than its files hold"),
        ("text_encoder/config.json", {"num_hidden_layers": 10**6}, "text_encoder .*asks for far more tensors"),
        ("text_encoder/config.json", {"num_labels": 10**9}, "num_labels: 1000000000, must be at most"),
        ("text_encoder/config.json", {"hidden_act": ["gelu"]}, "text_encoder .*hidden_act"),
        ("unet/config.json", {"sample_size": "x"}, "height: Input should be a valid integer, found 'xxxx'"),
        ("unet/config.json", {"attention_head_dim": 3}, "unet"),
        ("vae/config.json", {"scaling_factor": 0}, "its vae cannot be run .*scaling_factor 0"),
        ("vae/config.json", {"scaling_factor": "x"}, "its vae cannot be run"),
        ("vae/config.json", {"norm_num_groups": 3}, "vae"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}, "num_train_timesteps: .* at most"),
        ("scheduler/scheduler_config.json", {"prediction_type": "x"}, "prediction_type .*'x'"),
        ("scheduler/scheduler_config.json", {"trained_betas": [-1e-3] * 1000}, "do not rise within 0 to 1"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 2**63}, "max_sequence_length: .* 4096, found 92233"),
        ("tokenizer_2/tokenizer_config.json", {"model_max_length": 77}, "tokenizer_2: .*: 77, but .* has 16 positions"),
        ("tokenizer/tokenizer_config.json", {"extra_special_tokens": ["<new>"]}, "tokenizer: knows token 190"),
        ("tokenizer/tokenizer.json", {"model": 5}, "tokenizer|not a loadable model folder"),
    ],
)
def test_settings_that_do_not_fit_are_named(start, file, change, message):
    write_json(start / file, **change)
    with pytest.raises(UserError, match=message) as told:
        load_pipeline(start)
    assert "\n" not in str(told.value)


def test_parts_that_are_not_used_are_read_with_care_too(tmp_path):
    start = save_tiny("StableDiffusionPipeline", tmp_path / "start")
    write_json(start / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    (start / "safety_checker").mkdir()
    (start / "safety_checker" / "config.json").write_text(json.dumps({"num_labels": 10**9}))
    with pytest.raises(UserError, match="safety_checker/config.json: num_labels: 1000000000, must be at most"):
        load_pipeline(start)


@pytest.mark.parametrize("name", ["../unet/x.safetensors", "model.bin", "/etc/passwd", 3])
def test_an_index_of_shards_names_safetensors_of_its_own_folder(tmp_path, name):
    from diffusers import DiffusionPipeline

    start = save_tiny("StableDiffusionPipeline", tmp_path / "plain")
    DiffusionPipeline.from_pretrained(start).save_pretrained(tmp_path / "start", max_shard_size="4KB")
    index = next((tmp_path / "start" / "text_encoder").glob("*.index.json"))
    values = json.loads(index.read_text())
    values["weight_map"][next(iter(values["weight_map"]))] = name
    index.write_text(json.dumps(values))
    for read in (load_pipeline, lambda folder: load_pipeline(folder, with_text=False)):
        with pytest.raises(UserError, match=r"model.safetensors.index.json: weight_map\..*found"):
            read(tmp_path / "start")


def test_text_encoders_that_are_only_copied_are_looked_for_at_once(start):
    assert len(text_files(start, None)) == 4
    (start / "text_encoder_2" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="text_encoder_2 has no safetensors of its own"):
        load_pipeline(start, with_text=False)


def test_a_network_is_tried_though_no_text_is_loaded(start):
    load_pipeline(start, with_text=False)
    write_json(start / "unet" / "config.json", addition_time_embed_dim=None)
    with pytest.raises(UserError, match="its unet cannot be run"):
        load_pipeline(start, with_text=False)


def test_a_panic_of_a_tokenizer_is_one_line(whole, monkeypatch):
    """Rust's, which is no `Exception`."""
    panic = type("PanicException", (BaseException,), {})

    def panics(*args, **options):
        raise panic("index out of bounds\nat tokenizer.rs")

    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", panics)
    with pytest.raises(UserError, match=r"not a loadable model folder \(index out of bounds at tokenizer.rs\)"):
        load_pipeline(whole)


def test_an_interrupt_is_no_damage(whole, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_pipeline(whole)


def call(**changes):
    return {"solver": "ddim", "num_inference_steps": 4, "guidance_scale": 1.0, "height": 32, "width": 32} | changes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solver": "heun"}, "solver: must be one of lcm, ddim, ancestral, euler, scm, found 'heun'"),
        ({"solver": "euler"}, "solver: euler, but the model's scheduler is EulerDiscreteScheduler"),
        ({"num_inference_steps": 0}, "num_inference_steps: .* greater than or equal to 1, found 0"),
        ({"num_inference_steps": "4"}, "num_inference_steps: Input should be a valid integer, found '4'"),
        ({"num_inference_steps": True}, "num_inference_steps: Input should be a valid integer, found True"),
        ({"guidance_scale": float("nan")}, "guidance_scale: Input should be .*found nan"),
        ({"height": -8}, "height: .* found -8"),
        ({"width": 33}, "size: 32x33 pixels, but both sides must be multiples of 4"),
        ({"height": 4096}, "size: 4096x32 pixels, but both sides must be multiples of 4, at most 256"),
        ({"timesteps": [999, 499]}, "timesteps: 4 steps, but timesteps for 2"),
        ({"timesteps": [999, 499, 499, 9]}, "timesteps: timesteps must descend, the noisiest first"),
        ({"timesteps": [1000, 499, 99, 9]}, "timesteps.0: .* less than 1000, found 1000"),
        ({"fewer_timesteps": {"2": [999]}}, "fewer_timesteps: must be grids of fewer steps"),
        ({"fewer_timesteps": {"2": [9, 99]}}, "fewer_timesteps: timesteps must descend"),
        ({"transformers": ["unet", "../../x", "a", "b"]}, r"transformers.1: .*found '../../x'"),
        ({"transformers": ["unet"]}, "transformers: 4 steps, but transformers for 1"),
        ({"max_sequence_length": 10**9}, "max_sequence_length"),
    ],
)
def test_a_call_that_cannot_be_is_named_by_its_field(start, change, message):
    (start / "inference.json").write_text(json.dumps(call(**change)))
    with pytest.raises(UserError, match=message) as told:
        load_pipeline(start)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("missing", ["solver", "num_inference_steps", "guidance_scale", "height", "width"])
def test_a_call_lacks_nothing_that_it_needs(start, missing):
    (start / "inference.json").write_text(json.dumps({k: v for k, v in call().items() if k != missing}))
    with pytest.raises(UserError, match=f"inference.json: {missing} is missing; mend it"):
        load_pipeline(start)


def test_a_call_may_hold_what_later_versions_know(start):
    (start / "inference.json").write_text(json.dumps(call(later={"any": 1}, timesteps=[999, 700, 300, 1])))
    inference = load_pipeline(start)[1]
    assert inference.timesteps == [999, 700, 300, 1] and inference.max_sequence_length == 16
    assert vars(inference)["solver"] == "ddim" and "later" not in vars(inference)


def test_a_network_of_a_later_step_is_whole_too(start):
    shutil.copytree(start / "unet", start / "unet_2")
    (start / "inference.json").write_text(json.dumps(call(num_inference_steps=2, transformers=["unet", "unet_2"])))
    pipeline, inference = load_pipeline(start)
    assert len(load_transformers(start, pipeline, inference)) == 2
    file = start / "unet_2" / "diffusion_pytorch_model.safetensors"
    save_file({name: x for name, x in load_file(file).items() if name != "conv_in.bias"}, file)
    with pytest.raises(UserError, match="unet_2 lacks 1 of its tensors, such as conv_in.bias"):
        load_transformers(start, pipeline, inference)


def test_an_autoencoder_folder_is_whole(start):
    load_autoencoder(start / "vae")
    (start / "vae" / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="vae/config.json: must hold fields, found list"):
        load_autoencoder(start / "vae")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b"{", "emoji-lcm/config.json: not readable as JSON"),
        ("config.json", b'{"num_layers": 90000}', "asks for far more tensors"),
        ("inference.json", b'{"solver": "lcm"}', "emoji-lcm/inference.json: num_inference_steps is missing"),
        ("diffusion_pytorch_model.safetensors", b"\1\0\0\0\0\0\0\0{", "emoji-lcm: not a loadable model folder"),
    ],
)
def test_a_damaged_bundled_model_is_named(tiny_bundle, file, content, message):
    (tiny_bundle / "emoji-lcm" / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        resolve_model("emoji-lcm")
