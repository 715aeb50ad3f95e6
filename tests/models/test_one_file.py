"""Checkpoints in one file: a tiny model in the first code's names is the folder that it was made of, or is refused."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file, save_file

from e2ed2.models.families import network_of
from e2ed2.models.folders.bundled import resolve_model
from e2ed2.models.folders.pipeline import load_pipeline, replace_network
from e2ed2.models.one_file import unpack
from e2ed2.recipe.load import check_config
from e2ed2.sampling.generate import Request
from e2ed2.sampling.model import load_model
from e2ed2.system.errors import UserError
from e2ed2.training.inputs import check_inputs
from e2ed2.training.loop import train
from tests.models.tiny import SIDE, WIDTH, save_tiny, stable_diffusion_xl, unet

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
TOP = {
    "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0", "conv_out": "out.2", "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip


def quiet(line):
    pass


def unet_name(name: str, layers: int = 1) -> str:
    """Of a tensor of a UNet in the first code of latent diffusion (github.com/CompVis/latent-diffusion)."""
    for ours, original in TOP.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, original)
    side, *rest = re.match(r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(\w+)\.(\d+)\.(.*)", name).groups()
    block, kind, number, inner = rest
    number = int(number)
    inner = re.sub(r"^\w+", lambda found: RESNET.get(found[0], found[0]), inner) if kind == "resnets" else inner
    if side == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * number}.{inner}"
    if kind == "downsamplers":
        return f"input_blocks.{(layers + 1) * (int(block) + 1)}.0.op.{inner.removeprefix('conv.')}"
    if side == "down":
        return f"input_blocks.{1 + (layers + 1) * int(block) + number}.{int(kind == 'attentions')}.{inner}"
    place = (layers + 1) * int(block) + (layers if kind == "upsamplers" else number)
    which = {"resnets": 0, "attentions": 1, "upsamplers": 2}[kind]  # the block that is enlarged attends
    return f"output_blocks.{place}.{which}.{inner}"


def vae_name(name: str, blocks: int = 3) -> str:
    """The same of a tensor of its autoencoder."""
    name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    name = name.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.attentions\.0\.to_(q|k|v)\b", r"mid.attn_1.\1", name)
    name = name.replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out").replace("conv_norm_out", "norm_out")
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    turned = {"resnets": "block", "upsamplers.0": "upsample"}
    return re.sub(
        r"up_blocks\.(\d)\.(resnets|upsamplers\.0)",
        lambda found: f"up.{blocks - 1 - int(found[1])}.{turned[found[2]]}", name,
    )  # fmt: skip


def open_clip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """CLIP in the names of github.com/mlfoundations/open_clip, which has one layer for query, key and value."""
    renamed = {
        "text_model.encoder.layers.": "transformer.resblocks.", "layer_norm1": "ln_1", "layer_norm2": "ln_2",
        ".fc1.": ".c_fc.", ".fc2.": ".c_proj.", ".self_attn.": ".attn.", "text_model.final_layer_norm.": "ln_final.",
        "text_model.embeddings.token_embedding.": "token_embedding.",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
    }  # fmt: skip
    found = {}
    for name, x in state.items():
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            x = torch.cat([x, *(state[name.replace("q_proj", part)] for part in ("k_proj", "v_proj"))])
            name = name.replace("q_proj.", "in_proj_")
        if name == "text_projection.weight":
            name, x = "text_projection", x.T
        for ours, original in renamed.items():
            name = name.replace(ours, original)
        found[name] = x
    return found


def as_one_file(start: Path, file: Path) -> Path:
    """A Stable Diffusion 1 or XL folder as its authors have it: network, autoencoder and text encoders in one file."""
    names = [path.name for path in start.iterdir() if any(path.glob("*.safetensors"))]
    parts = {name: load_file(next((start / name).glob("*.safetensors"))) for name in names}
    first = "conditioner.embedders.0" if "text_encoder_2" in parts else "cond_stage_model"
    second = open_clip(parts.get("text_encoder_2", {}))
    whole = {f"conditioner.embedders.1.model.{name}": x for name, x in second.items()}
    whole |= {f"model.diffusion_model.{unet_name(name)}": x for name, x in parts["unet"].items()}
    for name, x in parts["vae"].items():
        is_attention = "attentions" in name and x.ndim == 2
        whole[f"first_stage_model.{vae_name(name)}"] = x[:, :, None, None] if is_attention else x
    for name, x in parts["text_encoder"].items():
        whole[f"{first}.transformer.text_model.{name.removeprefix('text_model.')}"] = x
    save_file({name: x.contiguous() for name, x in whole.items()}, file)
    return file


@pytest.fixture
def made(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """(A tiny folder, the same in one file); the hub has no network."""
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path / "cache"))
    start = save_tiny("StableDiffusionPipeline", tmp_path / "start")
    return start, as_one_file(start, tmp_path / "photo_real.safetensors")


def same(a: Path, b: Path) -> bool:
    pipelines = [load_pipeline(folder)[0] for folder in (a, b)]
    names = [name for name in ("unet", "vae", "text_encoder", "text_encoder_2") if hasattr(pipelines[0], name)]
    states = [[getattr(p, name).state_dict() for name in names] for p in pipelines]
    return all(x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) for x, y in zip(*states, strict=True))


def test_a_whole_model_in_one_file_is_the_folder_that_it_was_made_of(made, monkeypatch):
    start, file = made
    folder = resolve_model(str(file), config=str(start))
    assert same(folder, start)
    assert type(load_pipeline(folder)[0].scheduler) is type(load_pipeline(start)[0].scheduler)
    monkeypatch.setattr(unpack, "_read", pytest.fail)  # a second time nothing is converted
    assert resolve_model(file, config=str(start)) == folder


def test_two_text_encoders_come_out_of_one_file_too(tmp_path, monkeypatch):
    """Stable Diffusion XL's, of unlike widths, by which diffusers tells them apart."""
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    parts = stable_diffusion_xl()
    wide = CLIPTextConfig(**(parts["text_encoder_2"].config.to_dict() | {"hidden_size": 2 * WIDTH}))
    parts["text_encoder_2"] = CLIPTextModelWithProjection(wide).eval()
    added = {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": WIDTH + 6 * 8}
    parts["unet"] = unet(cross_attention_dim=3 * WIDTH, addition_embed_type="text_time", **added)
    StableDiffusionXLPipeline(**parts).save_pretrained(start := tmp_path / "start")
    folder = resolve_model(as_one_file(start, tmp_path / "xl.safetensors"), config=str(start))
    assert same(folder, start)


def test_its_configs_are_those_that_its_tensors_tell(made, monkeypatch):
    start, file = made
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **options: asked.append(repo) or str(start))
    assert same(resolve_model(file), start)
    assert asked == ["stable-diffusion-v1-5/stable-diffusion-v1-5"]


def test_a_run_begins_with_it_and_looks_at_it_first(made, recipe, tmp_path):
    start, file = made
    config = recipe(tmp_path / "run", file, model={"config": str(start)})
    check_config(config)
    assert check_inputs(config) == [] and not (tmp_path / "cache" / "models").exists()
    other = recipe(tmp_path / "other", start)
    a, b = (load_file(train(c, quiet) / "unet" / "diffusion_pytorch_model.safetensors") for c in (config, other))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_baseline_says_of_which_kind_its_one_file_is(made, tmp_path):
    start, file = made
    (tmp_path / "photo.yaml").write_text(f"model: {file}\nconfig: {start}\ncall: {{height: {SIDE}, width: {SIDE}}}\n")
    one, folder = (load_model(name, 2).sampler for name in (str(tmp_path / "photo.yaml"), str(start)))
    requests = [Request("a dog", 3)]
    assert torch.equal(one(requests), folder(requests))


def test_what_keeps_its_precision(made):
    start, file = made
    save_file({name: x.half() for name, x in load_file(file).items()}, file)
    folder = resolve_model(file, config=str(start))
    assert {x.dtype for x in load_file(next((folder / "unet").glob("*.safetensors"))).values()} == {torch.float16}


def test_what_is_none_or_of_another_kind_is_one_line(made, tmp_path, monkeypatch):
    start, file = made

    def message(at, **options) -> str:
        with pytest.raises(UserError) as told:
            resolve_model(at, **options)
        assert "\n" not in str(told.value)
        return str(told.value)

    def saved(name, **tensors):
        save_file({key: torch.zeros(2) for key in tensors.get("keys", [])} | tensors.get("given", {}), tmp_path / name)
        return tmp_path / name

    whole = load_file(file)
    lora = saved("lora.safetensors", keys=["lora_unet_x.lora_up.weight"])
    assert "an adapter: give the model that it is of as model.path, and this as model.lora" in message(lora)
    alone = saved("alone.safetensors", given={k: x for k, x in whole.items() if k.startswith("model.")})
    expected = (
        "without autoencoder and text encoders: if it holds a network, give a model, such as stable-"
    )
    assert expected in message(alone) and "and this as model.network" in message(alone)
    unknown = saved("unknown.safetensors", keys=["model.diffusion_model.x", "vae.x", "text_encoders.x"])
    assert "do not tell enough of what it is: give model.config, a model folder or hub id" in message(unknown)
    predicts_v = saved("v.safetensors", given=whole | {"v_pred": torch.zeros(1)})
    assert "do not tell enough" in message(predicts_v)
    refiner = whole | {"conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias": torch.zeros(1)}
    refiner = saved("refiner.safetensors", given=refiner)
    assert "a checkpoint of stabilityai/stable-diffusion-xl-refiner-1.0's kind, which is none of" in message(refiner)
    xl = save_tiny("StableDiffusionXLPipeline", tmp_path / "xl")
    told = message(file, config=str(xl))
    assert "no checkpoint of a StableDiffusionXLPipeline, as " in told and "looks like stable-diffusion-v1-5/" in told
    assert "model.config: nowhere: no model folder" in message(file, config="nowhere")
    assert "model.config: x, but model.path=" in message(start, config="x")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(file.read_bytes()[:5000])
    assert "damaged.safetensors': no safetensors file" in message(damaged)

    def offline(repo, **options):
        raise OSError("no")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    assert "are not to be had from the hub (no); `hf download" in message(file)


FIRST_CODE = {  # class -> diffusers' name of the first code's tensors in a tiny network of it, and what is fused there
    "StableDiffusionPipeline": lambda state: {f"model.diffusion_model.{unet_name(k)}": x for k, x in state.items()},
    "ZImagePipeline": lambda state: z_image(state),
}


def z_image(state):
    """github.com/Tongyi-MAI/Z-Image: one layer for query, key and value."""
    found = {}
    for name, x in state.items():
        if ".to_k." in name or ".to_v." in name:
            continue
        if ".to_q." in name:
            x = torch.cat([x, *(state[name.replace("to_q", part)] for part in ("to_k", "to_v"))])
        name = name.replace("to_q", "qkv").replace("to_out.0", "out").replace("all_final_layer.2-1", "final_layer")
        name = name.replace("norm_q", "q_norm").replace("norm_k", "k_norm").replace("all_x_embedder.2-1", "x_embedder")
        found[name] = x
    return found


@pytest.mark.parametrize("class_name", FIRST_CODE)
def test_a_network_in_the_first_code_s_names_replaces_another(class_name, tmp_path):
    start = save_tiny(class_name, tmp_path / "start")
    pipeline, _ = load_pipeline(start)
    network = network_of(pipeline)
    other = {name: torch.randn_like(x) for name, x in network.state_dict().items()}
    file = tmp_path / "network.safetensors"
    save_file({k: x.contiguous() for k, x in FIRST_CODE[class_name](other).items()}, file)
    replace_network(pipeline, str(file))
    for name, x in network_of(pipeline).state_dict().items():
        torch.testing.assert_close(x, other[name])


def test_a_file_that_is_no_network_of_this_kind_is_one_line(made, tmp_path):
    start, whole = made
    pipeline, _ = load_pipeline(save_tiny("ZImagePipeline", tmp_path / "z"))
    state = load_file(whole)
    alone = {name: x for name, x in state.items() if name.startswith("model.")}
    half = dict(list(alone.items())[: len(alone) // 2])
    files = {"alone": alone, "half": half, "lora": {"x.lora_A.weight": torch.zeros(1)}}
    for name, tensors in files.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")

    def refused(pipeline, name, problem):
        with pytest.raises(UserError, match=f"^network .*{name}.safetensors: {problem}") as told:
            replace_network(pipeline, str(tmp_path / f"{name}.safetensors"))
        assert "\n" not in str(told.value)

    refused(pipeline, "alone", "no weights of this ZImageTransformer2DModel; it looks like stable-diffusion-v1-5/")
    refused(pipeline, "photo_real", "a whole model, text encoders and all: give it as model.path")
    refused(pipeline, "lora", "an adapter: give it as model.lora")
    refused(load_pipeline(start)[0], "half", "no weights of this UNet2DConditionModel")


def test_what_diffusers_calls_these_kinds_is_what_it_knows():
    known = single_file_utils.DIFFUSERS_DEFAULT_PIPELINE_PATHS
    assert known.keys() >= {*unpack.GUESSED, *unpack.NAMED}


HAS_GGUF = importlib.util.find_spec("gguf") is not None


@pytest.mark.skipif(HAS_GGUF, reason="gguf is installed")
def test_without_its_package_a_gguf_file_is_one_line(tmp_path):
    pipeline, _ = load_pipeline(save_tiny("ZImagePipeline", tmp_path / "z"))
    (tmp_path / "z.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"a .gguf file is read with gguf: run `pip install 'e2ed2\[gguf\]'`"):
        replace_network(pipeline, str(tmp_path / "z.gguf"))


@pytest.mark.skipif(not HAS_GGUF, reason="needs gguf")
def test_a_gguf_file_is_read_to_its_quantised_values(tmp_path):
    """Against the package's own arithmetic: what Q8_0 makes of a tensor, and back."""
    import gguf

    pipeline, _ = load_pipeline(save_tiny("ZImagePipeline", tmp_path / "z"))
    network = network_of(pipeline)
    other = {name: torch.randn_like(x) for name, x in network.state_dict().items()}
    writer, expected = gguf.GGUFWriter(tmp_path / "z.gguf", "lumina2"), {}
    for name, x in z_image(other).items():
        quantised = name.endswith("weight") and x.ndim == 2 and x.shape[1] % 32 == 0
        kind = gguf.GGMLQuantizationType.Q8_0 if quantised else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(x.numpy(), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
        expected[name] = torch.from_numpy(gguf.quants.dequantize(data, kind).reshape(x.shape).copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    replace_network(pipeline, str(tmp_path / "z.gguf"))
    got = z_image(network_of(pipeline).state_dict())
    assert sum(not torch.equal(expected[name], z_image(other)[name]) for name in expected) > 10
    for name, x in got.items():
        torch.testing.assert_close(x, expected[name], rtol=1e-3, atol=1e-3)
