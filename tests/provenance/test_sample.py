"""`e2ed2 sample` and `e2ed2 verify` as a user runs them: what is written by default, without, and what is told."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from e2ed2.provenance import label
from e2ed2.sampling.folder import image_files, make_files, read_manifest
from e2ed2.sampling.generate import Request
from e2ed2.sampling.model import load_model
from tests.models.tiny import save_tiny
from tests.test_cli import run


@pytest.fixture
def sampled(tiny_model, tmp_path, monkeypatch, capsys):
    """Samples with some options: the folder and what was told on stderr."""

    def sample(*options):
        out = tmp_path / "out"
        assert run(monkeypatch, "sample", tiny_model, "a cat", "--num", 2, "--out", out, *options) == 0
        return out, capsys.readouterr().err

    return sample


def verified(monkeypatch, capsys, *paths, status=0):
    assert run(monkeypatch, "verify", *paths, "--json") == status
    captured = capsys.readouterr()
    return json.loads(captured.out), captured.err


def test_every_image_is_labelled_and_its_pixels_are_the_models(sampled, tiny_model, monkeypatch, capsys):
    out, _ = sampled()
    images = sorted(out.glob("images/*.png"))
    found, _ = verified(monkeypatch, capsys, *images, out / "grid.png")
    assert [f["path"] for f in found] == [str(path) for path in [*images, out / "grid.png"]]
    assert [f["generated"] for f in found] == [True] * 3 and {f["evidence"]["c2pa"]["key"] for f in found} == {"own"}
    assert [f["evidence"]["metadata"].get("seed") for f in found] == [0, 1, None]
    assert found[0]["evidence"]["metadata"]["model"] == tiny_model.name, "and not where it lies"
    assert str(tiny_model.parent).encode() not in images[0].read_bytes()
    assert read_manifest(out).labels == ["metadata", "c2pa", "watermark from 256 px"]
    made = load_model(str(tiny_model)).sampler([Request("a cat", 0)])[0]
    assert torch.from_numpy(np.array(Image.open(images[0]))).permute(2, 0, 1).equal(made), "too small for a mark"


def test_no_label_is_asked_for_and_recorded(sampled, monkeypatch, capsys):
    out, _ = sampled("--no-label")
    found, _ = verified(monkeypatch, capsys, *out.glob("images/*.png"), out / "grid.png")
    assert [(f["generated"], f["confidence"]) for f in found] == [(None, 0)] * 3
    assert read_manifest(out).labels == []
    sampled()
    found, _ = verified(monkeypatch, capsys, *[out / row.file for row in read_manifest(out).images])
    assert [f["generated"] for f in found] == [True] * 2, "an image without a label is not taken for one with"


def test_without_the_extra_one_line_says_what_is_missing(sampled, monkeypatch, capsys):
    monkeypatch.setattr(label, "find_spec", lambda name: None)
    out, told = sampled()
    assert told.count("pip install 'e2ed2[provenance]'") == 1
    found, _ = verified(monkeypatch, capsys, *out.glob("images/*.png"))
    assert [(f["generated"], f["evidence"]["c2pa"]["state"]) for f in found] == [(True, "not read")] * 2


def test_a_key_that_cannot_be_had_is_told_before_anything_is_made(tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("E2ED2_SIGNING_KEY", str(tmp_path / "none.pem"))
    assert run(monkeypatch, "sample", tiny_model, "a cat", "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err == (
        "error: E2ED2_SIGNING_KEY is set, but E2ED2_SIGNING_CERTIFICATE is not: set both, or none\n"
    )
    assert not (tmp_path / "out").exists()


def test_an_image_that_cannot_be_read_hides_nothing_of_the_others(labelled, tmp_path, monkeypatch, capsys):
    (tmp_path / "x.png").write_bytes(b"junk")
    found, told = verified(monkeypatch, capsys, tmp_path / "x.png", labelled, tmp_path / "none.png", status=2)
    assert [f["path"] for f in found] == [str(labelled)]
    assert told.startswith(f"error: image {tmp_path / 'x.png'}: cannot be decoded") and told.count("\n") == 1
    assert "and 1 more" in told
    assert run(monkeypatch, "verify", labelled) == 0
    assert "generated (confidence 0.99)" in capsys.readouterr().out


def test_that_a_safety_checker_is_not_run_is_told(tmp_path, monkeypatch, capsys):
    for name, options in (("with", {"is_filtered": True}), ("without", {})):
        folder = save_tiny("StableDiffusionPipeline", tmp_path / name, **options)
        options = ["--num", 1, "--steps", 1, "--out", tmp_path / f"out-{name}"]
        assert run(monkeypatch, "sample", folder, "a cat", *options) == 0
        told = capsys.readouterr().err
        assert told.count("note: the safety checker of this model is not run") == (name == "with")


def test_metadata_alone_leaves_the_names_and_images_of_before(tiny_model, tmp_path, monkeypatch):
    model, requests = load_model(str(tiny_model)), [Request("a cat", 0), Request("a cat", 1)]
    before = make_files(model, requests[:1], tmp_path).files
    again = make_files(model, requests, tmp_path, label=label.metadata_label())
    assert again.files[0] == before[0] and len(list((tmp_path / "images").iterdir())) == 2
    assert read_manifest(tmp_path).labels == [], "one of them has none"
    new = tmp_path / "new"
    assert make_files(model, requests, new, label=label.metadata_label()).files[0].name == before[0].name
    assert read_manifest(new).labels == ["metadata"]
    own = image_files(model, requests, tmp_path, label.full_label())
    unprompted = image_files(model, requests, tmp_path, label.full_label(with_prompt=False))
    monkeypatch.setattr(label, "find_spec", lambda name: None)
    alone = image_files(model, requests, tmp_path, label.full_label())
    assert len({again.files[0], own[0], unprompted[0], alone[0]}) == 4, "a sample is labelled as it was asked"
