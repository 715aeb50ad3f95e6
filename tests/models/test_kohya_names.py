"""Adapters in kohya's names, read as ComfyUI reads them.

github.com/Comfy-Org/ComfyUI, `model_lora_keys_unet` and `load_lora` of comfy/lora.py, `calculate_weight` of
comfy/weight_adapter/lora.py: for each weight `X.weight` of a model's first code it looks for `lora_unet_X`, dots as
`_`, and adds alpha / rank up down. What that makes of a checkpoint of the first code, diffusers' own converter of
checkpoints brings into our names.
"""

import re

import pytest
import torch
from diffusers.loaders import lora_pipeline, single_file_utils
from safetensors.torch import save_file

from e2ed2.models.families import FAMILIES
from e2ed2.models.folders.pipeline import load_pipeline
from e2ed2.models.lora.fuse import fuse
from e2ed2.models.lora.save import check_names, kohya_file
from e2ed2.system.errors import UserError
from e2ed2.training.loop import train
from tests.models.tiny import save_tiny

RANK, IN, OUT = 2, 4, 12
LINEAR1 = 3 * 3072 + 12288  # what diffusers' converter takes the width of FLUX.1 for, whatever it is


def split_pixart(checkpoint):
    """diffusers has no converter of PixArt's: parts of fused layers in ComfyUI's order (`pixart_to_diffusers`)."""
    found = {}
    for name, x in checkpoint.items():
        block = name.replace("blocks.0", "transformer_blocks.0")
        if "attn.qkv" in name or "kv_linear" in name:
            parts = ["to_q", "to_k", "to_v"] if "qkv" in name else ["to_k", "to_v"]
            layer = re.sub(r"\.(attn\.qkv|cross_attn\.kv_linear)", ".attn1" if "qkv" in name else ".attn2", block)
            split = zip(parts, x.chunk(len(parts)), strict=True)
            found |= {f"{layer.rpartition('.')[0]}.{part}.{name.rpartition('.')[2]}": y for part, y in split}
            continue
        for original, ours in (("cross_attn.q_linear", "attn2.to_q"), ("cross_attn.proj", "attn2.to_out.0"),
                               (".attn.proj", ".attn1.to_out.0"), ("mlp.fc1", "ff.net.0.proj"),
                               ("mlp.fc2", "ff.net.2")):  # fmt: skip
            block = block.replace(original, ours)
        found[block] = x
    return found


def within(blocks, layers):
    """Names of layers in blocks."""
    return [f"{block}.{layer}" for block in blocks.split() for layer in layers.split()]


SD3_BLOCK = "attn.qkv attn.proj adaLN_modulation.1 mlp.fc1 mlp.fc2"
FLUX = [
    *within("double_blocks.0", "img_attn.qkv img_attn.proj img_mlp.0 img_mlp.2"),
    *within("double_blocks.0", "txt_attn.qkv txt_attn.proj txt_mlp.0 txt_mlp.2"),
    *within("single_blocks.0", "linear1 linear2"),
    *["img_in", "txt_in", "final_layer.linear"],
]
TIMES = ["time_in.in_layer", "time_in.out_layer", "final_layer.adaLN_modulation.1"]
MODULATED = ["double_blocks.0.img_mod.lin", "double_blocks.0.txt_mod.lin", "single_blocks.0.modulation.lin"]
VECTOR = ["vector_in.in_layer", "vector_in.out_layer"]
NORMS = within(
    "double_blocks.0.img_attn.norm double_blocks.0.txt_attn.norm single_blocks.0.norm",
    "query_norm.scale key_norm.scale",
)
GUIDED = [
    *within("distilled_guidance_layer", "in_proj out_proj"),
    *within(" ".join(f"distilled_guidance_layer.layers.{i}" for i in range(5)), "in_layer out_layer"),
]
SD3 = [
    *["x_embedder.proj", "context_embedder", "final_layer.linear", "final_layer.adaLN_modulation.1"],
    *within("t_embedder.mlp y_embedder.mlp", "0 2"),
    *within("joint_blocks.0.x_block joint_blocks.1.x_block joint_blocks.0.context_block", SD3_BLOCK),
    *within("joint_blocks.0.x_block joint_blocks.1.x_block", "attn2.qkv attn2.proj"),
    *within("joint_blocks.1.context_block", "attn.qkv adaLN_modulation.1"),
]
Z_IMAGE = within(
    "layers.0 noise_refiner.0 context_refiner.0",
    "attention.qkv attention.out feed_forward.w1 feed_forward.w2 feed_forward.w3",
)
PIXART = within(
    "blocks.0", "attn.qkv attn.proj cross_attn.q_linear cross_attn.kv_linear cross_attn.proj mlp.fc1 mlp.fc2"
)
QWEN = [
    *within("transformer_blocks.0.attn", "to_q to_k to_v to_out.0 add_q_proj add_k_proj add_v_proj to_add_out"),
    *within("transformer_blocks.0.img_mlp transformer_blocks.0.txt_mlp", "net.0.proj net.2"),
]
CHECKPOINTS = {  # class -> layers of the first code, other tensors of it, and what brings them into diffusers' names
    "FluxPipeline": ([*FLUX, *TIMES, *MODULATED, *VECTOR], NORMS, "flux_transformer"),
    "ChromaPipeline": (
        [*FLUX, *GUIDED],
        [*NORMS, *(f"distilled_guidance_layer.norms.{i}.scale" for i in range(5))],
        "chroma_transformer",
    ),
    "Flux2KleinPipeline": ([*FLUX, *TIMES], NORMS, "flux2_transformer"),
    "StableDiffusion3Pipeline": (SD3, ["pos_embed"], "sd3_transformer"),
    "ZImagePipeline": (Z_IMAGE, [], "z_image_transformer"),
    "PixArtSigmaPipeline": (PIXART, [], None),
    "QwenImagePipeline": (QWEN, [], ""),  # the same names
}


def converted(class_name, checkpoint):
    which = CHECKPOINTS[class_name][2]
    if which is None:
        return split_pixart(dict(checkpoint))
    convert = getattr(single_file_utils, f"convert_{which}_checkpoint_to_diffusers") if which else dict
    return convert(dict(checkpoint))


@pytest.fixture
def checkpoint(request):
    torch.manual_seed(0)
    layers, others, _ = CHECKPOINTS[request.param]
    outs = {name: LINEAR1 if name.endswith("linear1") else OUT for name in layers}
    found = {f"{name}.weight": torch.randn(out, IN) for name, out in outs.items()}
    if request.param != "ZImagePipeline":  # none of its layers here has a bias
        found |= {f"{name}.bias": torch.randn(out) for name, out in outs.items()}
    return request.param, found | {name: torch.randn(OUT) for name in others}


def as_meant(family, names):
    """The layers that an adapter is put on by default, of the names of a network's tensors."""
    targets = family.lora_targets
    pattern = targets if isinstance(targets, str) else rf".*\.({'|'.join(map(re.escape, targets))})"
    layers = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
    return [layer for layer in layers if re.fullmatch(pattern, layer)]


def as_comfyui(checkpoint, adapter):
    """A checkpoint with an adapter added by ComfyUI's rule; every key of the file is one that it looks for."""
    key_map = {f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}": name
               for name in checkpoint if name.endswith(".weight")}  # fmt: skip
    after, read = dict(checkpoint), set()
    for key, name in key_map.items():
        if f"{key}.lora_up.weight" in adapter:
            up, down = (adapter[f"{key}.lora_{part}.weight"] for part in ("up", "down"))
            after[name] = after[name] + adapter[f"{key}.alpha"].item() / len(down) * (up @ down).view(after[name].shape)
            read |= {f"{key}.lora_up.weight", f"{key}.lora_down.weight", f"{key}.alpha"}
    assert set(adapter) == read
    return after


def adapter_on(layers, before):
    return {name: (torch.randn(RANK, IN), torch.randn(len(before[f"{name}.weight"]), RANK)) for name in layers}


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, indirect=True, ids=str)
@pytest.mark.parametrize("part", [slice(None), slice(1, None, 2)], ids=["all", "some"])
def test_comfyui_makes_of_it_what_we_do(checkpoint, part):
    class_name, first_code = checkpoint
    family, before = FAMILIES[class_name], converted(class_name, first_code)
    layers = as_meant(family, before)[part]
    assert len(layers) > 3
    adapter = adapter_on(layers, before)
    named = kohya_file(adapter, family, lambda name: len(before[f"{name}.weight"]))
    after = converted(class_name, as_comfyui(first_code, named))
    for name, x in before.items():
        down, up = adapter.get(name.removesuffix(".weight"), (torch.zeros(1, IN), torch.zeros(len(x), 1)))
        expected = x + up @ down if name.removesuffix(".weight") in adapter else x
        torch.testing.assert_close(after[name], expected, rtol=1e-5, atol=1e-5)


READERS = {
    "FluxPipeline": lora_pipeline.FluxLoraLoaderMixin,
    "ChromaPipeline": lora_pipeline.FluxLoraLoaderMixin,
    "Flux2KleinPipeline": lora_pipeline.Flux2LoraLoaderMixin,
    "QwenImagePipeline": lora_pipeline.QwenImageLoraLoaderMixin,
}


@pytest.mark.parametrize("checkpoint", READERS, indirect=True, ids=str)
def test_diffusers_own_converter_of_adapters_brings_it_back(checkpoint):
    class_name, first_code = checkpoint
    before = converted(class_name, first_code)
    adapter = adapter_on(as_meant(FAMILIES[class_name], before), before)
    named = kohya_file(adapter, FAMILIES[class_name], lambda name: len(before[f"{name}.weight"]))
    back = READERS[class_name].lora_state_dict(dict(named))
    back = back[0] if isinstance(back, tuple) else back
    assert {name.partition(".lora_")[0] for name in back} == {f"transformer.{name}" for name in adapter}
    for name, (down, up) in adapter.items():
        torch.testing.assert_close(back[f"transformer.{name}.lora_A.weight"], down)
        torch.testing.assert_close(back[f"transformer.{name}.lora_B.weight"], up)


@pytest.mark.parametrize("class_name", ["Flux2KleinPipeline", "QwenImagePipeline"])
def test_a_run_s_adapter_in_kohya_s_names_is_added_into_its_start_again(class_name, recipe, tmp_path):
    start = save_tiny(class_name, tmp_path / "start")
    asked = {"parameters": "lora", "lora_rank": 2, "lora_names": "kohya"}
    folder = train(recipe(tmp_path / "run", start, train={"lr": 0.1, "ema_decay": 0.0}, **asked), lambda line: None)
    pipeline, _ = load_pipeline(start)
    before = {name: x.clone() for name, x in pipeline.transformer.state_dict().items()}
    fuse(pipeline, [str(folder / "lora")])
    expected, after = load_pipeline(folder)[0].transformer.state_dict(), pipeline.transformer.state_dict()
    for name, x in expected.items():
        torch.testing.assert_close(after[name], x, rtol=1e-5, atol=1e-6)
    assert sum(not torch.equal(before[name], x) for name, x in after.items()) >= 10


@pytest.mark.parametrize("class_name", ["Flux2KleinPipeline", "QwenImagePipeline", "ZImagePipeline"])
def test_a_scale_below_one_is_read_and_what_fits_nowhere_is_named(class_name, tmp_path):
    """As in Qwen-Image's Lightning: alpha below the rank, which diffusers' converters multiply in."""
    start = save_tiny(class_name, tmp_path / "start")
    pipeline, _ = load_pipeline(start)
    name = next(name for name, _ in pipeline.transformer.named_modules() if name.endswith("to_out.0"))
    key = "lora_unet_" + name.replace(".", "_")
    if class_name == "Flux2KleinPipeline":
        key = "lora_unet_double_blocks_0_img_attn_proj"
    before = pipeline.transformer.get_submodule(name).weight.detach().clone()
    up, down = torch.randn(before.shape[0], 4), torch.randn(4, before.shape[1])
    file = {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down, f"{key}.alpha": torch.tensor(1.0)}
    save_file(file, tmp_path / "quarter.safetensors")
    fuse(pipeline, [str(tmp_path / "quarter.safetensors")])
    after = pipeline.transformer.get_submodule(name).weight
    torch.testing.assert_close(after, before + up @ down / 4, rtol=1e-5, atol=1e-5)
    wrong = {
        "Flux2KleinPipeline": "lora_unet_double_blocks_0_nothing",  # which diffusers leaves out without an error
        "QwenImagePipeline": "lora_unet_transformer_blocks_99_attn_to_q",
        "ZImagePipeline": "lora_unet_layers_99_attention_to_q",
    }[class_name]
    file |= {f"{wrong}.lora_{part}.weight": x.clone() for part, x in (("up", up), ("down", down))}
    save_file(file, tmp_path / "partial.safetensors")
    message = "model.lora: .*partial.safetensors cannot .*: 2 of 5 tensors fit no layer, such as .*(nothing|99)"
    with pytest.raises(UserError, match=message):
        fuse(load_pipeline(start)[0], [str(tmp_path / "partial.safetensors")])


@pytest.mark.parametrize(
    ("class_name", "targets", "message"),
    [
        ("SanaPipeline", None, "neither ComfyUI nor kohya's tools know the network of a SanaPipeline; set diffusers"),
        ("DiTPipeline", None, "neither ComfyUI nor kohya's tools know the network of a DiTPipeline"),
        ("FluxPipeline", ["to_v", "x_embedder"], "of a FluxPipeline 1 of 3 layers .* no such name, x_embedder for one"),
    ],
)
def test_what_has_no_such_name_is_refused(class_name, targets, message, tmp_path):
    pipeline, _ = load_pipeline(save_tiny(class_name, tmp_path / "start"))
    with pytest.raises(UserError, match=f"trajectory.lora_names: kohya, but {message}"):
        check_names("kohya", pipeline, targets or FAMILIES[class_name].lora_targets)
