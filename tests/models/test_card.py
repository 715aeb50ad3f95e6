"""The card: an exact call, no path of this machine, the licence of the start."""

import re
from pathlib import Path

import pytest

from e2ed2.models.families import FAMILIES
from e2ed2.models.folders.card import add_measured, licence_of, model_card
from e2ed2.models.folders.inference import Inference
from e2ed2.recipe.load import build_config
from e2ed2.training.about import about_run
from e2ed2.training.loop import train
from tests.models.tiny import save_tiny, write_json


def test_the_call_is_the_family_s_own():
    sdxl = model_card(Inference("lcm", 4, 1.0, 1024, 768), FAMILIES["StableDiffusionXLPipeline"], "any", {})
    assert re.search(r"num_inference_steps=4,\n    guidance_scale=1.0,\n    height=1024,\n    width=768,\n\)", sdxl)
    sd3 = model_card(Inference("euler", 2, 1.0, 512, 512), FAMILIES["StableDiffusion3Pipeline"], "any", {})
    assert "sigmas=[1.0, 0.5]" in sd3 and "max_sequence_length=" in sd3 and "num_inference_steps" not in sd3


@pytest.mark.parametrize(
    ("head", "licence"),
    [
        ("---\nlicense: openrail++\ntags:\n- any\n---\n# A model", {"license": "openrail++"}),
        (
            "---\nlicense: other\nlicense_name: community\nlicense_link: LICENSE.md\n---\n",
            {"license": "other", "license_name": "community", "license_link": "LICENSE.md"},
        ),
        ("# license: none\n", {}),
        (None, {}),
    ],
)
def test_the_licence_is_read_from_the_start_s_card(tmp_path, head, licence):
    if head is not None:
        (tmp_path / "README.md").write_text(head)
    assert licence_of(tmp_path) == licence


def test_nothing_in_a_card_stops_a_run(tmp_path):
    """Another encoding, a licence that cannot be printed, a folder of its name."""
    card = tmp_path / "README.md"
    card.write_bytes(b"\xef\xbb\xbf---\r\nlicense: mit\r\nlicense_name: caf\xe9\r\n---\r\n\xff\xfe\0")
    assert licence_of(tmp_path) == {"license": "mit", "license_name": "caf\ufffd"}
    add_measured(tmp_path, "| FID | 10 |\n")
    assert card.read_text().endswith("\n\n## Measured\n\n| FID | 10 |\n")
    card.write_text("---\nlicense: a\x85b\n---\n")
    assert licence_of(tmp_path) == {}
    card.unlink()
    card.mkdir()
    assert licence_of(tmp_path) == {}


def test_a_run_is_described_without_paths(recipe, tmp_path):
    start = save_tiny("StableDiffusionPipeline", tmp_path / "start")
    (start / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    config = recipe(tmp_path / "run", start, train={"gradient_accumulation_steps": 3})
    about = about_run(config, {"l2": 1.0, "mmd": 100})
    assert about["license"] == "apache-2.0" and about["objective"] == "1 l2, 100 mmd"
    assert "base_model" not in about and about["start"] == "a local model"
    assert about["training"].startswith("at most 2 updates of 6 captions per device")
    card = model_card(Inference("lcm", 2, 1.0, 32, 32), FAMILIES["StableDiffusionPipeline"], "any", about)
    assert card.startswith("---\nlibrary_name: diffusers\npipeline_tag: text-to-image\nlicense: apache-2.0\n---\n")
    assert str(tmp_path) not in card and "| trajectory | 2 steps, start pure_noise, shared |" in card
    assert "| start | a local model |" in card


NAMED = {"README.md": "---\nlicense: mit\nbase_model: org/from-card\n---\n", "model_index.json": "org/from-index"}


@pytest.mark.parametrize(
    ("files", "base"),
    [
        (NAMED, "org/from-card"),
        ({"README.md": "---\nbase_model:\n- org/first\n- org/second\n---\n"}, "org/first"),
        ({"README.md": "---\nbase_model: ['org/first', org/second]\n---\n"}, "org/first"),
        ({"README.md": "---\nbase_model: emoji-lcm\n---\n"}, "emoji-lcm"),
        ({"README.md": "---\nbase_model: /home/me/x\n---\n", "model_index.json": "org/from-index"}, "org/from-index"),
        ({"README.md": "# base_model: org/none\n"}, None),
        ({"model_index.json": "org/from-index"}, "org/from-index"),
        ({"unet/config.json": "org/of-the-network"}, "org/of-the-network"),
        ({"unet/config.json": "/home/me/.cache/huggingface/hub/models--org--a.b-c/snapshots/1a/unet"}, "org/a.b-c"),
        ({"model_index.json": "/home/me/model"}, None),
        ({"model_index.json": "../model"}, None),
        ({"model_index.json": "runs/mine"}, None),
        ({"model_index.json": "here/mine"}, None),  # a folder of that name is here
        ({"model_index.json": "C:\\me\\model"}, None),
        ({"model_index.json": 5}, None),
    ],
)
def test_a_local_start_is_followed_to_a_name_that_others_can_find(files, base, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    start = save_tiny("StableDiffusionPipeline", tmp_path / "start")
    for file, content in files.items():
        if file.endswith(".md"):
            (start / file).write_text(content)
        else:
            write_json(start / file, _name_or_path=content)
    about = about_run(recipe(tmp_path / "run", start), {"l2": 1.0})
    assert about.get("base_model") == base and about.get("start") == (None if base else "a local model")


def test_a_folder_of_the_hub_s_cache_is_known_by_its_place(recipe, tmp_path, monkeypatch):
    start = save_tiny("StableDiffusionPipeline", tmp_path / "hub" / "models--org--name-1.5" / "snapshots" / "1a2b")
    assert about_run(recipe(tmp_path / "run", start), {})["base_model"] == "org/name-1.5"
    monkeypatch.setattr("diffusers.DiffusionPipeline.download", lambda repo, **options: str(start))
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *args, **options: None)
    assert about_run(recipe(tmp_path / "run", "org/asked"), {})["base_model"] == "org/asked"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    assert about_run(recipe(tmp_path / "run", "org/name-1.5"), {})["base_model"] == "org/name-1.5"


def test_a_path_that_looks_like_a_hub_id_is_not_told(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = save_tiny("StableDiffusionPipeline", Path("private/model"))
    folder = train(recipe(tmp_path / "run", start), lambda line: None)
    assert "private" not in (folder / "README.md").read_text()
    (folder / "README.md").write_text("---\nbase_model: org/name\n---\n")
    again = train(recipe(tmp_path / "again", folder), lambda line: None)
    assert "\nbase_model: org/name\n" in (again / "README.md").read_text()


def test_terms_that_were_left_out_are_not_told(recipe, tmp_path):
    """No caption of the set has two images, and one sample is too few for a scoring rule."""
    config = recipe(tmp_path / "run", save_tiny("StableDiffusionPipeline", tmp_path / "start"))
    objective = {"l2": {"weight": 1}, "l1": {"weight": 0.5}, "energy": {"weight": 1}, "intermediate_weight": 0.1}
    values = config.model_dump() | {"objective": objective}
    values["data"] |= {"images_per_caption": 2, "plain_caption_fraction": 0.5}
    values["train"] |= {"micro_batch_size": 4}
    folder = train(build_config(values), lambda line: None)
    row = re.search(r"\| objective \| (.*) \|", (folder / "README.md").read_text())[1]
    assert row == "0.5 l1, 1 l2, 0.05 intermediate_l1, 0.1 intermediate_l2"


def test_what_was_measured_is_said_once(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# A model\n")
    add_measured(tmp_path, "| FID | 10 |\n")
    add_measured(tmp_path, "| FID | 9 |\n")
    assert (tmp_path / "README.md").read_text() == (
        "---\nlicense: mit\n---\n\n# A model\n\n## Measured\n\n| FID | 9 |\n"
    )
