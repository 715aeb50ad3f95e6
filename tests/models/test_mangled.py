"""Model folders, adapters and what else this room reads back, mangled: taken and run, or refused in one line."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from e2ed2.models.families import FAMILIES, network_of
from e2ed2.models.folders.card import add_measured, licence_of
from e2ed2.models.folders.inference import inference_of, read_inference
from e2ed2.models.folders.parts import load_network
from e2ed2.models.folders.pipeline import load_pipeline, load_transformers, replace_network
from e2ed2.models.lora import fuse, lora_copies, save_adapter
from e2ed2.models.losses import squeezenet
from e2ed2.models.text import cached_prompt_embeds
from e2ed2.sampling.generate import Request, Sampler
from tests.mangle import bounded_memory, mangled_bytes, mangled_json, read_or_refuse, times
from tests.models.tiny import SIDE, pixart, save_tiny

KINDS = ("PixArtSigma", "LatentConsistencyModel", "StableDiffusionXL", "StableDiffusion3")
FOLDERS = [f"{kind}Pipeline" for kind in KINDS]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory) -> Callable[[str], Path]:
    """A model folder of two steps with all kinds of files.

    SD3's in shards, PixArt's with a network for each step, a tokenizer of SDXL's in the files of older libraries.
    """
    made: dict[str, Path] = {}

    def make(class_name: str) -> Path:
        from diffusers import DiffusionPipeline

        if class_name in made:
            return made[class_name]
        folder = save_tiny(class_name, tmp_path_factory.mktemp("mangled") / class_name)
        values = {"num_inference_steps": 2, "guidance_scale": 1.5, "height": SIDE, "width": SIDE}
        values["solver"] = "euler" if class_name == "StableDiffusion3Pipeline" else "ddim"
        if class_name == "StableDiffusion3Pipeline":
            DiffusionPipeline.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
        if class_name == "StableDiffusionXLPipeline":
            as_older_files(folder / "tokenizer_2")
        if class_name == "PixArtSigmaPipeline":
            shutil.copytree(folder / "transformer", folder / "transformer_2")
            values |= {"transformers": ["transformer", "transformer_2"], "timesteps": [999, 400]}
        (folder / "inference.json").write_text(json.dumps(values))
        made[class_name] = folder
        return folder

    return make


def as_older_files(tokenizer: Path) -> None:
    """`vocab.json`, `merges.txt` and `special_tokens_map.json` in the place of `tokenizer.json`."""
    vocab = json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"]
    vocab["ab"] = vocab.pop("~")
    (tokenizer / "vocab.json").write_text(json.dumps(vocab))
    (tokenizer / "merges.txt").write_text("#version: 0.2\na b\n")
    special = dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>")
    (tokenizer / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<|startoftext|>"} | special))
    (tokenizer / "tokenizer.json").unlink()


def mangled(path: Path, rng: random.Random) -> bytes:
    """JSON by its values, safetensors also by the values of their header."""
    content = path.read_bytes()
    if path.suffix == ".json":
        return mangled_json(json.loads(content), rng)
    if path.suffix == ".safetensors" and rng.random() < 0.6:
        length = int.from_bytes(content[:8], "little")
        header = mangled_json(json.loads(content[8 : 8 + length]), rng)
        return len(header).to_bytes(8, "little") + header + content[8 + length :]
    return mangled_bytes(content, rng)


def sample(folder: Path) -> None:
    pipeline, inference = load_pipeline(folder)
    Sampler(pipeline, inference, None, load_transformers(folder, pipeline, inference))([Request("a cat", 1)])


@pytest.mark.parametrize("class_name", FOLDERS)
def test_a_mangled_model_folder_is_sampled_or_refused(class_name, folder_of, tmp_path):
    whole = folder_of(class_name)
    sample(whole)
    files = sorted(path for path in whole.rglob("*") if path.is_file())
    with bounded_memory():
        for seed in times(8):
            rng = random.Random(seed)
            path, copy = rng.choice(files), tmp_path / str(seed)
            shutil.copytree(whole, copy)
            (copy / path.relative_to(whole)).write_bytes(mangled(path, rng))
            read_or_refuse(lambda copy=copy: sample(copy), seed)
            shutil.rmtree(copy)


@pytest.mark.parametrize("class_name", ["PixArtSigmaPipeline", "StableDiffusion3Pipeline"])
def test_a_mangled_call_is_read_or_refused(class_name, folder_of, tmp_path):
    pipeline, whole = load_pipeline(folder_of(class_name))
    values = json.loads((folder_of(class_name) / "inference.json").read_text())
    values["fewer_timesteps"] = {"1": [999]}
    taken = 0
    for seed in times():
        (tmp_path / "inference.json").write_bytes(mangled_json(values, random.Random(seed)))

        def read() -> None:
            inference = read_inference(tmp_path, pipeline)
            assert len(inference.grid()) == inference.num_inference_steps
            inference.call(FAMILIES[class_name])

        taken += read_or_refuse(read, seed)
    assert 0 < taken < len(times())


@pytest.mark.parametrize("class_name", ["PixArtSigmaPipeline", "StableDiffusionXLPipeline"])
def test_a_mangled_adapter_is_added_or_refused(class_name, folder_of, tmp_path):
    pipeline, _ = load_pipeline(folder_of(class_name))
    (trained,) = lora_copies(network_of(pipeline), 1, rank=2)
    for name, value in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value.data)
    save_adapter(trained, load_pipeline(folder_of(class_name))[0], tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with bounded_memory():
        for seed in times(8):
            rng = random.Random(seed)
            for path, content in files.items():
                path.write_bytes(content)
            path = rng.choice(sorted(files))
            path.write_bytes(mangled(path, rng))
            pipeline, _ = load_pipeline(folder_of(class_name), with_text=False)
            read_or_refuse(lambda pipeline=pipeline: fuse(pipeline, [str(tmp_path)]), seed)


def test_mangled_weights_of_a_network_are_taken_or_refused(tmp_path):
    parts = pixart()
    network, folder = parts["transformer"], tmp_path / "network"
    network.save_pretrained(folder)
    files = {path: path.read_bytes() for path in folder.iterdir()}
    with bounded_memory():
        for seed in times():
            rng = random.Random(seed)
            for path, content in files.items():
                path.write_bytes(content)
            path = rng.choice(sorted(files))
            path.write_bytes(mangled(path, rng))
            read_or_refuse(lambda: load_network(type(network), folder), seed)
            if path.suffix == ".safetensors":
                pipeline = type("PixArtSigmaPipeline", (), {"transformer": network})()
                read_or_refuse(lambda path=path, pipeline=pipeline: replace_network(pipeline, str(path)), seed)


def test_mangled_bundled_weights_are_taken_or_refused(tmp_path, monkeypatch):
    file = tmp_path / "squeezenet.safetensors"
    small = {name: x[:0] for name, x in squeezenet.SqueezeNet().state_dict().items()}  # another shape: refused if whole
    save_file(small, file)
    content = file.read_bytes()
    monkeypatch.setattr(squeezenet, "WEIGHTS", file)
    call = {"solver": "ddim", "num_inference_steps": 25, "guidance_scale": 2.0, "height": 64, "width": 64}
    for seed in times():
        rng = random.Random(seed)
        file.write_bytes(content)
        file.write_bytes(mangled(file, rng))
        read_or_refuse(squeezenet.load_squeezenet, seed)
        (tmp_path / "inference.json").write_bytes(mangled_json(call, rng))
        read_or_refuse(lambda: inference_of(tmp_path / "inference.json", {}, {}), seed)


def test_mangled_embeddings_in_the_cache_are_made_again(folder_of, tmp_path, monkeypatch):
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path))
    pipeline, _ = load_pipeline(folder_of("StableDiffusionXLPipeline"))
    expected = cached_prompt_embeds(["a cat", "a dog"], pipeline)
    (file,) = tmp_path.glob("prompts-*")
    content = file.read_bytes()
    for seed in times():
        file.write_bytes(content)
        file.write_bytes(mangled(file, random.Random(seed)))
        embeds = cached_prompt_embeds(["a cat", "a dog"], pipeline)
        assert embeds.embeds.shape == expected.embeds.shape and embeds.pooled.shape == expected.pooled.shape


def test_a_mangled_card_stops_nothing(tmp_path):
    head = "---\nlicense: openrail++\nlicense_link: LICENSE.md\n---\n\n# A model\n\n## Measured\n"
    for seed in times():
        (tmp_path / "README.md").write_bytes(mangled_bytes(head.encode(), random.Random(seed)))
        assert all(value.isprintable() for value in licence_of(tmp_path).values())
        add_measured(tmp_path, "| FID | 9 |\n")
        assert (tmp_path / "README.md").read_text().endswith("## Measured\n\n| FID | 9 |\n")
