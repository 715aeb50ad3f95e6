"""Adapters added into a start: by their product, all of their tensors, or refused with what fits nowhere."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from e2ed2.models.families import FAMILIES, network_of
from e2ed2.models.folders.pipeline import load_pipeline
from e2ed2.models.lora.adapter import lora_copies
from e2ed2.models.lora.fuse import fuse
from e2ed2.models.lora.save import save_adapter
from e2ed2.system.errors import UserError
from tests.models.tiny import TODAY, save_tiny, write_json


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`made(class_name)` -> a start, and an adapter of it in diffusers' or peft's file that changes all its layers."""
    folders = {}

    def make(class_name):
        if class_name not in folders:
            start = save_tiny(class_name, tmp_path_factory.mktemp(class_name) / "start")
            network = network_of(load_pipeline(start)[0])
            (trained,) = lora_copies(network, 1, rank=2, targets=FAMILIES[class_name].lora_targets)
            for value in trained.parameters():
                if value.requires_grad:
                    torch.nn.init.normal_(value)
            save_adapter(trained, load_pipeline(start)[0], start.parent / "lora")
            folders[class_name] = start, start.parent / "lora"
        return folders[class_name]

    return make


KINDS = ("PixArtSigma", "StableDiffusion", "StableDiffusionXL", "StableDiffusion3")
LORA_CLASSES = [f"{kind}Pipeline" for kind in KINDS]
PREFIXES = ["base_model.model.base_model.model.", "transformer.unet.", "text_encoder_2.", "_orig_mod."]


@pytest.mark.slow
@pytest.mark.parametrize("class_name", LORA_CLASSES)
@pytest.mark.parametrize(("prefix", "is_partial"), [*((prefix, False) for prefix in PREFIXES), (PREFIXES[2], True)])
def test_tensors_that_fit_no_layer_are_counted_and_named(class_name, prefix, is_partial, made, tmp_path):
    start, lora = made(class_name)
    shutil.copytree(lora, tmp_path / "lora")
    (file,) = (tmp_path / "lora").glob("*.safetensors")
    values = load_file(file)
    own = "base_model.model." if class_name == "PixArtSigmaPipeline" else f"{next(iter(values)).split('.')[0]}."
    wrong = sorted(values)[: 3 if is_partial else None]
    for name in wrong:
        values[prefix + name.removeprefix(own)] = values.pop(name)
    save_file(values, file)
    example = prefix.replace(".", r"\.") + "(down|transformer)_blocks"
    message = f"{len(wrong)} of {len(values)} tensors fit no layer, such as {example}"
    with pytest.raises(UserError, match=message):
        fuse(load_pipeline(start)[0], [str(tmp_path / "lora")])


@pytest.mark.slow
@pytest.mark.parametrize("class_name", TODAY)
def test_names_that_are_not_the_model_s_own_are_one_line(class_name, made, tmp_path):
    start, lora = made(class_name)
    (file,) = lora.glob("*.safetensors")
    for prefix in PREFIXES:
        for count in (None, 3):
            values = load_file(file)
            for name in sorted(values)[:count]:
                values[prefix + name.partition(".")[2]] = values.pop(name)
            save_file(values, tmp_path / "wrong.safetensors")
            named = str(tmp_path / "wrong.safetensors")
            if class_name == "DiTPipeline":  # which takes peft folders
                named = str(shutil.copytree(lora, tmp_path / "wrong", dirs_exist_ok=True))
                shutil.copy(tmp_path / "wrong.safetensors", f"{named}/{file.name}")
            with pytest.raises(UserError, match="cannot be added to model.path.*(fit no layer|names such as)") as told:
                fuse(load_pipeline(start)[0], [named])
            assert "\n" not in str(told.value)


@pytest.mark.parametrize("class_name", LORA_CLASSES)
def test_every_layer_of_an_adapter_changes_by_its_product(class_name, made):
    start, lora = made(class_name)
    pipeline, _ = load_pipeline(start)
    before = {name: x.clone() for name, x in network_of(pipeline).state_dict().items()}
    fuse(pipeline, [str(lora)])
    after = network_of(pipeline).state_dict()
    values = load_file(next(lora.glob("*.safetensors")))
    prefix = "base_model.model." if class_name == "PixArtSigmaPipeline" else f"{FAMILIES[class_name].network}."
    layers = {name.partition(".lora_")[0] for name in values}
    assert len(layers) == len(values) / 2 > 5
    for layer in layers:
        product = values[f"{layer}.lora_B.weight"] @ values[f"{layer}.lora_A.weight"]  # rank and alpha are the same
        name = f"{layer.removeprefix(prefix)}.weight"
        torch.testing.assert_close(after[name], before[name] + product, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("class_name", ["StableDiffusionPipeline", "PixArtSigmaPipeline"])
def test_an_adapter_is_added_at_the_scale_behind_its_name(class_name, made, tmp_path):
    start, lora = made(class_name)
    whole, part, before = (load_pipeline(start)[0] for _ in range(3))
    fuse(whole, [str(lora)])
    fuse(part, [f"{lora}@0.125"])
    a, b, c = (network_of(pipeline).state_dict() for pipeline in (whole, part, before))
    for name, x in c.items():
        torch.testing.assert_close(b[name] - x, (a[name] - x) / 8, rtol=1e-3, atol=1e-5)
    named = shutil.copytree(lora, tmp_path / "lora@0.5")  # what exists is a name
    fuse(before, [str(named)])
    assert all(torch.equal(x, a[name]) for name, x in network_of(before).state_dict().items())
    with pytest.raises(UserError, match="model.lora: nowhere: no such file or folder"):
        fuse(whole, ["nowhere@0.5"])


def test_kohya_s_names_and_scales_fit(made, tmp_path):
    start, lora = made("StableDiffusionPipeline")
    values = load_file(lora / "pytorch_lora_weights.safetensors")
    renamed = {}
    for name, x in values.items():
        layer, _, which = name.removeprefix("unet.").partition(".lora_")
        layer = "lora_unet_" + layer.replace(".", "_")
        renamed[f"{layer}.lora_{'down' if which[0] == 'A' else 'up'}.weight"] = x.half()
        renamed[f"{layer}.alpha"] = torch.tensor(1.0)  # half of the rank
    save_file(renamed, tmp_path / "kohya.safetensors")
    pipeline, _ = load_pipeline(start)
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    before = pipeline.unet.get_submodule(layer).weight.clone()
    fuse(pipeline, [str(tmp_path / "kohya.safetensors")])
    product = values[f"unet.{layer}.lora_B.weight"] @ values[f"unet.{layer}.lora_A.weight"]
    torch.testing.assert_close(pipeline.unet.get_submodule(layer).weight, before + product / 2, rtol=1e-2, atol=1e-2)
    renamed["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.dora_scale"] = torch.ones(32, 1)
    save_file(renamed, tmp_path / "dora.safetensors")
    with pytest.raises(UserError, match="1 of 121 tensors fit no layer, such as lora_unet_mid.*dora_scale"):
        fuse(load_pipeline(start)[0], [str(tmp_path / "dora.safetensors")])


@pytest.mark.parametrize("class_name", ["PixArtSigmaPipeline", "StableDiffusionXLPipeline"])
def test_half_of_an_adapter_and_infinite_ones_are_refused(class_name, made, tmp_path):
    start, lora = made(class_name)
    for name, change in (
        ("half", lambda values: {k: x for k, x in values.items() if "lora_A" in k}),
        ("infinite", lambda values: {k: x / 0 for k, x in values.items()}),
        ("empty", lambda values: {}),
        ("integers", lambda values: {k: x.to(torch.int8) for k, x in values.items()}),
    ):
        shutil.copytree(lora, folder := tmp_path / name)
        (file,) = folder.glob("*.safetensors")
        save_file({k: x.contiguous() for k, x in change(load_file(file)).items()}, file)
        with pytest.raises(UserError, match=f"model.lora: .*{name} cannot be added to model.path"):
            fuse(load_pipeline(start)[0], [str(folder)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": -1}, "adapter_config.json: r: .* found -1"),
        ({"r": 2**63}, "adapter_config.json: r: "),
        ({"lora_alpha": "x"}, "adapter_config.json: lora_alpha: .* found 'x'"),
        ({"target_modules": 5}, "adapter_config.json: target_modules"),
        ({"peft_type": None}, "adapter_config.json: peft_type"),
        ({"peft_type": "NONE"}, "cannot be added to model.path"),
    ],
)
def test_a_mistaken_adapter_config_is_named(change, message, made, tmp_path):
    start, lora = made("PixArtSigmaPipeline")
    shutil.copytree(lora, tmp_path / "lora")
    write_json(tmp_path / "lora" / "adapter_config.json", **change)
    with pytest.raises(UserError, match=f"model.lora.*{message}"):
        fuse(load_pipeline(start)[0], [str(tmp_path / "lora")])


def test_an_adapter_is_one_file_and_no_pickle(made, tmp_path):
    start, lora = made("StableDiffusionPipeline")
    for name in ("a", "b"):
        shutil.copyfile(lora / "pytorch_lora_weights.safetensors", tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match="its safetensors are a.safetensors, b.safetensors; give one file"):
        fuse(load_pipeline(start)[0], [str(tmp_path)])
    fuse(load_pipeline(start)[0], [str(tmp_path / "a.safetensors")])
    start, lora = made("PixArtSigmaPipeline")
    shutil.copytree(lora, tmp_path / "lora")
    (tmp_path / "lora" / "adapter_model.safetensors").rename(tmp_path / "lora" / "adapter_model.bin")
    with pytest.raises(UserError, match="no adapter_model.safetensors"):
        fuse(load_pipeline(start)[0], [str(tmp_path / "lora")])
