"""Previews show each caption's own picture beside its sample, wherever the training set has it."""

import json

import pytest
import torch
from PIL import Image

from e2ed2.data.batch import ImageTextSet
from e2ed2.models.autoencoder import decode_all, encode_all
from e2ed2.recipe.load import build_config
from e2ed2.training import loop
from e2ed2.training.latents import training_set
from e2ed2.training.latents.lazy import short_caption
from e2ed2.training.latents.precompute import precompute
from e2ed2.training.latents.training_set import load_training_set
from e2ed2.training.stages.create import create_stage
from tests.data.conftest import write_tar

COUNT = 18  # previews are 16
quiet = lambda line: None  # noqa: E731


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """18 pictures of one grey each, their number in the caption, and one that cannot be decoded."""
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path / "kept"))
    path = tmp_path / "photos"
    path.mkdir()
    for i in range(COUNT):
        Image.new("RGB", (64, 64), (i, i, i)).save(path / f"{i:02d}.png")
        (path / f"{i:02d}.txt").write_text(f"grey {i}")
    (path / "bad.png").write_bytes(b"noise")
    (path / "bad.txt").write_text("a bad one")
    return path


@pytest.fixture
def model(tiny_model):
    return {"path": str(tiny_model)}


def recipe(model, data, *terms, **sections):
    objective = {term: {"weight": 1} for term in terms or ("l2",)}
    data = {"source": "folder", "max_bad_fraction": 0.2, **{key: str(value) for key, value in data.items()}}
    train = {"mixed_precision": "no"} | sections.pop("train", {})
    run = {"run": {"dir": "unused"}, "train": train}
    return build_config({"stage": "e2ed2", **run, "model": model, "data": data, "objective": objective, **sections})


def stage_of(config):
    torch.manual_seed(0)
    return create_stage(config, load_training_set(config.data, quiet), torch.device("cpu"), quiet)


def check_real(sheet):
    """Every row has the picture that its caption names."""
    assert list(sheet.columns) == ["real", "sample"] and len(sheet.captions) == 16
    assert sheet.columns["sample"].shape == sheet.columns["real"].shape == (16, 3, 64, 64)
    shades = sheet.columns["real"].flatten(1).float()
    assert sheet.captions == [f"grey {i:g}" for i in shades.mean(1).tolist()] and shades.std(1).max() == 0


@pytest.mark.parametrize("kind", ["memory", "online", "stream", "cache"])
def test_the_real_picture_stands_beside_its_sample(kind, folder, model, tmp_path, monkeypatch):
    data, terms = {"path": folder}, ("l2",)
    if kind == "online":
        monkeypatch.setattr(training_set, "MAX_BYTES_IN_MEMORY", 0)
    if kind == "stream":
        files = sorted(folder.glob("[0-9]*.png"))
        items = {f.stem: {"png": f.read_bytes(), "txt": f.with_suffix(".txt").read_bytes()} for f in files}
        write_tar(tmp_path / "shards" / "0.tar", items)
        data = {"source": "webdataset", "path": tmp_path / "shards"}
    if kind == "cache":  # which keeps pictures for a loss that looks at them
        terms = ("lpips",)
        data = {"source": "cache", "path": precompute(recipe(model, data, *terms), tmp_path / "cache", quiet)}
    stage = stage_of(recipe(model, data, *terms))
    sheet = stage.preview(stage.network)
    check_real(sheet)
    again = stage.preview(stage.network)
    assert torch.equal(again.columns["sample"], sheet.columns["sample"]) and again.captions == sheet.captions


def test_a_cache_of_latents_shows_the_autoencoder_s_copy_and_says_so(folder, model, tmp_path):
    path = precompute(recipe(model, {"path": folder}), tmp_path / "cache", quiet)
    stage = stage_of(recipe(model, {"source": "cache", "path": path}))
    sheet = stage.preview(stage.network)
    assert list(sheet.columns) == ["autoencoder's copy", "sample"]
    assert sheet.captions == [f"grey {i}" for i in range(16)]
    images = torch.arange(16, dtype=torch.uint8)[:, None, None, None].expand(16, 3, 64, 64)
    vae = stage._pipeline.vae
    copies = decode_all(vae, encode_all(vae, images))
    assert (sheet.columns["autoencoder's copy"].float() - copies.float()).abs().max() <= 1


def test_an_autoencoder_shows_images_beside_their_copies(folder):
    architecture = {
        "block_out_channels": [8, 8, 8],
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "norm_num_groups": 4,
    }
    stage = stage_of(recipe({"architecture": architecture}, {"path": folder}, "l1", stage="autoencoder"))
    sheet = stage.preview(stage.network)
    assert list(sheet.columns) == ["real", "autoencoder's copy"]
    assert sheet.captions == [f"grey {i}" for i in range(0, 16, 2)]
    assert sheet.columns["real"][:, 0, 0, 0].tolist() == list(range(0, 16, 2))


def test_a_run_says_what_was_read_and_what_was_not(folder, model, tmp_path):
    (folder / "01.txt").write_text("grey 0")
    run = {"run": {"dir": str(tmp_path / "run")}, "train": {"max_train_steps": 1, "micro_batch_size": 2}}
    short = {"trajectory": {"num_inference_steps": 1, "start": "pure_noise"}}
    loop.train(recipe(model, {"path": folder}, **run, **short), quiet)
    about = json.loads((tmp_path / "run" / "data_summary.json").read_text())
    reason, said, sizes = (about.pop(name) for name in ("first_skipped", "said", "sizes"))
    assert said == [] and len(sizes) == 3 and about.pop("enlarged") == 0
    assert about == {"images": COUNT, "captions": COUNT - 1, "skipped": 1}
    assert len(reason) == 1 and "bad.png" in reason[0]


@pytest.mark.parametrize("is_small", [True, False])
def test_a_run_says_how_many_images_were_captioned_by_default(folder, model, tmp_path, monkeypatch, is_small):
    monkeypatch.setattr(training_set, "MAX_BYTES_IN_MEMORY", 2**30 if is_small else 0)
    for number, caption in (("01", "grey 0"), ("03", "a shade"), ("04", " ")):
        (folder / f"{number}.txt").write_text(caption)
    for number in ("05", "06"):
        (folder / f"{number}.txt").unlink()
    run = {"run": {"dir": str(tmp_path / "run")}, "train": {"max_train_steps": 1, "micro_batch_size": 2}}
    short = {"trajectory": {"num_inference_steps": 1, "start": "pure_noise"}}
    loop.train(recipe(model, {"path": folder, "default_caption": "a shade"}, **run, **short), quiet)
    about = json.loads((tmp_path / "run" / "data_summary.json").read_text())
    for name in ("first_skipped", "said", "sizes", "enlarged"):
        del about[name]
    own = COUNT - 3 - 1  # "grey 0" is there twice, and "a shade" is one image's own
    captions = {"captions": own} if is_small else {}
    assert about == {"images": COUNT, **captions, "captioned_by_default": 3, "skipped": 1}


def test_a_card_shows_a_short_caption_or_the_beginning_of_a_long_one():
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    for captions, shown in ((["long " * 60, "a cat"], "a cat"), (["long " * 60] * 2, ("long " * 16).strip())):
        assert short_caption(ImageTextSet(images, captions, ["a", "b"])) == shown
