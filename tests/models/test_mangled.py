"""Model folders, adapters and what else this room reads back, mangled: taken and run, or refused in one line."""

import json
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from e2ed2.models.families import FAMILIES, network_of
from e2ed2.models.folders.card import add_measured, licence_of
from e2ed2.models.folders.inference import inference_of, read_inference
from e2ed2.models.folders.parts import load_network
from e2ed2.models.folders.pipeline import load_pipeline, load_transformers, replace_network
from e2ed2.models.lora.adapter import lora_copies
from e2ed2.models.lora.fuse import fuse
from e2ed2.models.lora.save import save_adapter
from e2ed2.models.losses import squeezenet
from e2ed2.models.text import cached_prompt_embeds
from e2ed2.sampling.generate import Request, Sampler
from tests.mangle import mangled_bytes, mangled_json, share_taken, times
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


def damage_one(files: dict[Path, bytes], rng: random.Random) -> None:
    """All files are whole again, but for one."""
    for path, content in files.items():
        path.write_bytes(content)
    path = rng.choice(sorted(files))
    path.write_bytes(mangled(path, rng))


def sample(folder: Path) -> None:
    pipeline, inference = load_pipeline(folder)
    Sampler(pipeline, inference, None, load_transformers(folder, pipeline, inference))([Request("a cat", 1)])


@pytest.mark.slow
@pytest.mark.parametrize("class_name", FOLDERS)
def test_a_mangled_model_folder_is_sampled_or_refused(class_name, folder_of, tmp_path):
    whole = folder_of(class_name)
    sample(whole)
    files = sorted(path for path in whole.rglob("*") if path.is_file())
    copy = tmp_path / "copy"

    def damage(rng):
        path = rng.choice(files)
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        (copy / path.relative_to(whole)).write_bytes(mangled(path, rng))

    assert 0 < share_taken(damage, lambda: sample(copy), 8) < 1


@pytest.mark.parametrize("class_name", ["PixArtSigmaPipeline", "StableDiffusion3Pipeline"])
def test_a_mangled_call_is_read_or_refused(class_name, folder_of, tmp_path):
    pipeline, whole = load_pipeline(folder_of(class_name))
    values = json.loads((folder_of(class_name) / "inference.json").read_text())
    values["fewer_timesteps"] = {"1": [999]}

    def damage(rng):
        (tmp_path / "inference.json").write_bytes(mangled_json(values, rng))

    def read():
        inference = read_inference(tmp_path, pipeline)
        assert len(inference.grid()) == inference.num_inference_steps
        inference.call(FAMILIES[class_name])

    assert 0 < share_taken(damage, read) < 1


@pytest.mark.parametrize("class_name", ["PixArtSigmaPipeline", "StableDiffusionXLPipeline"])
def test_a_mangled_adapter_is_added_or_refused(class_name, folder_of, tmp_path):
    pipeline, _ = load_pipeline(folder_of(class_name))
    (trained,) = lora_copies(network_of(pipeline), 1, rank=2)
    for name, value in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value.data)
    save_adapter(trained, load_pipeline(folder_of(class_name))[0], tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    def read():
        pipeline, _ = load_pipeline(folder_of(class_name), with_text=False)
        fuse(pipeline, [str(tmp_path)])

    assert 0 < share_taken(partial(damage_one, files), read, 8) < 1


def test_mangled_weights_of_a_network_are_taken_or_refused(tmp_path):
    parts = pixart()
    network, folder = parts["transformer"], tmp_path / "network"
    network.save_pretrained(folder)
    files = {path: path.read_bytes() for path in folder.iterdir()}
    (weights,) = (path for path in files if path.suffix == ".safetensors")
    pipeline = type("PixArtSigmaPipeline", (), {"transformer": network})()
    assert 0 < share_taken(partial(damage_one, files), lambda: load_network(type(network), folder)) < 1
    damage_weights = partial(damage_one, {weights: files[weights]})
    assert 0 < share_taken(damage_weights, lambda: replace_network(pipeline, str(weights))) < 1


def test_mangled_bundled_weights_are_taken_or_refused(tmp_path, monkeypatch):
    file = tmp_path / "squeezenet.safetensors"
    small = {name: x[:0] for name, x in squeezenet.SqueezeNet().state_dict().items()}  # another shape: refused if whole
    save_file(small, file)
    files = {file: file.read_bytes()}
    monkeypatch.setattr(squeezenet, "WEIGHTS", file)
    call = {"solver": "ddim", "num_inference_steps": 25, "guidance_scale": 2.0, "height": 64, "width": 64}

    def damage_call(rng):
        (tmp_path / "inference.json").write_bytes(mangled_json(call, rng))

    assert share_taken(partial(damage_one, files), squeezenet.load_squeezenet) == 0
    assert 0 < share_taken(damage_call, lambda: inference_of(tmp_path / "inference.json", {}, {})) < 1


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
