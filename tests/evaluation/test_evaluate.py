"""An evaluation: every metric end to end on tiny copies, and what is refused before an image is made."""

import dataclasses
import json
import shutil
import sys
import types
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from e2ed2.data.image_set import FileImages
from e2ed2.data.sources.columns import Columns
from e2ed2.data.sources.folder import list_images
from e2ed2.data.sources.shards import tar_shards
from e2ed2.evaluation import evaluate as module
from e2ed2.evaluation.evaluate import evaluate
from e2ed2.evaluation.metrics.distribution import frechet_distance, kernel_distance
from e2ed2.evaluation.metrics.table import METRICS
from e2ed2.evaluation.protocols import read_protocol
from e2ed2.evaluation.results import read_jackknife
from e2ed2.sampling import folder as sample_folder
from e2ed2.sampling.folder import (
    claim_folder,
    file_name,
    image_files,
    make_files,
    rate_before,
    read_manifest,
    requests_for,
)
from e2ed2.sampling.generate import Request
from e2ed2.sampling.model import load_model
from e2ed2.system.drawing.pictures import labelled_grid
from e2ed2.system.errors import UserError
from e2ed2.system.processes import Share
from tests.evaluation.tiny import LINE, StubInception, draw_images

PACKAGED = ("hpsv2", "hpsv3", "image_reward")
ALL = [name for name in METRICS if name not in (*PACKAGED, "spread", "authenticity", "alignment", "style_share")]


def result_of(model, protocol, **options):
    found = evaluate(str(model), str(protocol), **options)
    assert found is not None
    return found


def test_every_metric_from_a_model_to_one_json(tiny_model, protocol, tmp_path):
    draw_images(tmp_path / "seen", 30, seed=3)
    parts = {"prompts": {"path": "captions.txt", "num": 12, "samples_per_prompt": 2}, "training": {"path": "seen"}}
    path = protocol(metrics=[*ALL, "spread", "authenticity"], **parts)
    out = tmp_path / "out"
    result = result_of(tiny_model, path, steps=2, out=out, batch_size=8)
    assert json.loads((out / "evaluation.json").read_text()) == result
    assert (result["nfe"], result["num_images"], result["protocol"]) == (2, 24, "tiny")
    assert list(result["metrics"]) == [*ALL, "spread", "authenticity"]
    assert all(m["low"] <= m["value"] <= m["high"] for m in result["metrics"].values())
    note = "fid: biased at 24 images (samples); compare at equal counts only; kid is unbiased at any count"
    assert note in result["notes"]
    assert set(read_jackknife(out)) == set(result["metrics"])
    assert (out / "nearest_training.png").exists()
    # the same figures from the kept images, by the functions over features in memory
    samples = FileImages(list_images(out / "images", "samples"), "samples", 32)
    real = FileImages(list_images(tmp_path / "real", "reference"), "reference", 32)
    x, y = (StubInception()([s.read(i) for i in range(len(s))]) for s in (samples, real))
    captions = [i // 2 for i in range(24)]
    assert result["metrics"]["fid"] == pytest.approx(frechet_distance(x, y, captions).to_json(), rel=1e-6)
    assert result["metrics"]["kid"] == pytest.approx(kernel_distance(x, y, captions).to_json(), rel=1e-6)


def test_the_hash_changes_with_all_that_moves_a_figure(tiny_model, protocol, tmp_path):
    def sha(name: str, **parts) -> str:
        return result_of(tiny_model, protocol(f"{name}.yaml", metrics=["fid"], **parts), steps=1, out=tmp_path / "out")[
            "protocol_sha256"
        ]

    first = sha("a")
    assert sha("b") == first, "its name does not count"
    assert sha("a", images={"size": 16}) != first
    assert sha("a", images={"size": 32, "resample": "bicubic"}) != first
    assert sha("a", prompts={"path": "captions.txt", "num": 20}) != first
    (tmp_path / "real" / "0007.png").write_bytes((tmp_path / "real" / "0008.png").read_bytes())
    assert sha("a") != first, "nor do equal numbers of other images"


def test_processes_and_interruptions_do_not_change_a_byte(tiny_model, tmp_path):
    loaded, requests = load_model(str(tiny_model), 1), requests_for(["cat", "owl", "sun"], 5, 0)

    def contents(folder):
        return {p.name: p.read_bytes() for p in (folder / "images").iterdir()}

    make_files(loaded, requests, tmp_path / "one", batch_size=4)
    for rank in (1, 0):
        make_files(loaded, requests, tmp_path / "two", batch_size=4, share=Share(rank, 2))
    one = contents(tmp_path / "one")
    assert len(one) == 15 and contents(tmp_path / "two") == one
    for i in (2, 3, 9):  # one of them torn
        sorted((tmp_path / "two" / "images").iterdir())[i].unlink() if i != 9 else None
    torn = sorted((tmp_path / "two" / "images").iterdir())[5]
    torn.write_bytes(torn.read_bytes()[:60])
    make_files(loaded, requests, tmp_path / "two", batch_size=4)
    assert contents(tmp_path / "two") == one


def test_a_process_does_not_refuse_what_another_has_just_begun(tmp_path, monkeypatch):
    """The first process writes the manifest, then the grid, between this one's two looks."""

    def exists(path, exists=Path.exists):
        if path.name == "grid.png":
            monkeypatch.undo()
            (tmp_path / "manifest.json").write_text('{"made_by": "e2ed2 0", "nfe": 4}')
            path.write_bytes(b"")
        return exists(path)

    monkeypatch.setattr(Path, "exists", exists)
    assert claim_folder(tmp_path, "manifest.json", "grid.png").nfe == 4
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="manifest.json there is not from e2ed2 and stays"):
        claim_folder(tmp_path, "manifest.json", "grid.png")


def test_a_folder_of_images_is_measured_as_it_is(protocol, tmp_path):
    path = protocol(metrics=["fid", "clip_score"])
    folder = draw_images(tmp_path / "theirs", 24, side=48, seed=5)
    result = result_of(folder, path, out=tmp_path / "out")
    assert result["nfe"] == 0 and result["metrics"]["fid"]["value"] > 0
    (folder / "0000.png").unlink()
    with pytest.raises(UserError, match="23 images, but the protocol asks 24, one for each prompt in order"):
        result_of(folder, path, out=tmp_path / "out")


def test_our_own_images_are_taken_by_their_manifest(tiny_model, protocol, tmp_path):
    """Whatever else lies beside them: another seed's, whose names sort between, and a file that a kill left."""
    path, ours = protocol(metrics=["kid", "clip_score"]), tmp_path / "ours"
    result_of(tiny_model, path, steps=1, seed=1, out=ours)
    expected = result_of(tiny_model, path, steps=1, out=ours)
    (ours / "images" / ".000003-a.png.77.tmp").write_bytes(b"half a fi")
    for folder in (ours, ours / "images"):
        found = result_of(folder, path, out=tmp_path / "again")
        assert found["metrics"] == expected["metrics"]
        assert found["protocol_sha256"] == expected["protocol_sha256"]
    words = LINE.split()
    (tmp_path / "captions.txt").write_text("".join(f"a {word}\n" for word in [*words[1::-1], *words[2:]]))
    with pytest.raises(UserError, match="000000-a-apple-.*png is of 'a apple', but the protocol asks 'a bus' there"):
        result_of(ours, path, out=tmp_path / "again")
    (tmp_path / "captions.txt").write_text("".join(f"a {word}\n" for word in words))
    next((ours / "images").glob("000000-*")).unlink()
    result_of(tiny_model, path, steps=1, out=ours)  # makes it again
    image_files(load_model(str(tiny_model), 1), requests_for(["a apple"], 1, 0), ours)[0].unlink()
    with pytest.raises(UserError, match="000000-a-apple-.*png of its manifest.json is missing; make the images again"):
        result_of(ours, path, out=tmp_path / "again")


def test_names_sort_as_their_numbers(tiny_model, tmp_path):
    loaded, request = load_model(str(tiny_model), 1), Request("cat", 0)
    names = [file_name(loaded, i, request) for i in (0, 999, 1000, 1001, 9999, 10_000, 10_010, 30_000, 999_999)]
    assert names == sorted(names)


def test_a_lossy_format_is_another_protocol(protocol, tmp_path):
    path, folder = protocol(metrics=["kid"]), draw_images(tmp_path / "png", 24)
    for name, suffix in (("jpg", ".jpg"), ("jpeg", ".JPEG")):
        (tmp_path / name).mkdir()
        for file in folder.iterdir():
            Image.open(file).save((tmp_path / name / file.name).with_suffix(suffix))
    of = {name: result_of(tmp_path / name, path, out=tmp_path / "out" / name) for name in ("png", "jpg", "jpeg")}
    formats = [result["protocol_facts"]["images"]["format"] for result in of.values()]
    assert formats == ["png", "jpg", "jpg"]
    assert of["jpg"]["protocol_sha256"] == of["jpeg"]["protocol_sha256"] != of["png"]["protocol_sha256"]


def test_every_model_seed_and_count_has_a_folder_of_its_own(tiny_model, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, first = protocol(metrics=["kid"]), tmp_path / "runs" / "a" / "model"
    shutil.copytree(tiny_model, first)
    other = shutil.copytree(first, tmp_path / "runs" / "b" / "model")
    settings = json.loads((other / "scheduler" / "scheduler_config.json").read_text())
    (other / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings | {"x": 1}))
    for model, options in ((first, {}), (other, {}), (first, {"seed": 2, "steps": 1, "num_images": 12})):
        result_of(model, path, **options)
    results = Path("runs/evaluations/tiny")
    sha256 = [load_model(str(model)).sha256[:8] for model in (first, other)]
    names = {f"model-{sha256[0]}", f"model-{sha256[1]}", f"model-{sha256[0]}-1-steps-seed-2-12-images"}
    assert sha256[0] != sha256[1] and {folder.name for folder in results.iterdir()} == names
    for name in ("c", "d"):
        result_of(draw_images(tmp_path / name / "images", 24), path)
    assert len(list(results.iterdir())) == 5


def test_a_rate_is_of_its_own_model_and_steps(tiny_model, protocol, tmp_path):
    path, out = protocol(metrics=["kid"]), tmp_path / "out"
    first = result_of(tiny_model, path, steps=1, out=out)
    assert first["images_per_second"] > 0
    assert result_of(tiny_model, path, steps=1, out=out)["images_per_second"] == first["images_per_second"]
    loaded = load_model(str(tiny_model), 2)
    assert rate_before(read_manifest(out), load_model(str(tiny_model), 1)) == first["images_per_second"]
    assert rate_before(read_manifest(out), loaded) is None
    assert rate_before(read_manifest(out), dataclasses.replace(loaded, sha256="0" * 64)) is None


def test_a_result_says_how_it_was_sampled(tiny_model, protocol, tmp_path):
    found = result_of(tiny_model, protocol(metrics=["kid"]), steps=1, out=tmp_path, batch_size=7)["environment"]
    assert (found["dtype"], found["batch_size"], found["num_processes"]) == ("float32", 7, 1)
    versions = {name: found[name] for name in ("e2ed2", "torch", "diffusers", "transformers")}
    installed = {name: version(name) for name in ("e2ed2", "diffusers", "transformers")}
    assert versions == {**installed, "torch": torch.__version__}, "torch's own name has its build, as +cpu"


def test_what_can_be_refused_is_refused_before_an_image_is_made(tiny_model, protocol, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "make_files", lambda *args, **options: pytest.fail("sampled"))
    monkeypatch.setitem(sys.modules, "ImageReward", None)
    networks = read_protocol(str(protocol())).networks.model_dump()
    missing = networks | {"clip": str(tmp_path / "nowhere")}
    cases = [
        ({"metrics": ["image_reward"]}, "image_reward needs the package ImageReward"),
        ({"metrics": ["clip_score"], "networks": missing}, "nowhere: cannot be loaded"),
        ({"images": {"size": 48}}, "reference image .*0000.png: 32x32 pixels"),
        ({"images": {"size": 96, "enlarge_reference": True}}, "model .* makes images of 64x64 pixels, but .* at 96"),
    ]
    for i, (parts, message) in enumerate(cases):
        with pytest.raises(UserError, match=message):
            result_of(tiny_model, protocol(**parts), steps=1, out=tmp_path / str(i))
    (tmp_path / "real" / "0039.png").write_bytes(b"half a fi")
    with pytest.raises(UserError, match="reference image .*0039.png: cannot be decoded"):
        result_of(tiny_model, protocol(), steps=1, out=tmp_path / "last")


def test_scores_that_are_not_finite_name_their_image(protocol, tmp_path, monkeypatch):
    module = types.ModuleType("my_scores")
    module.odd = lambda paths, prompts: [float("nan") if path.name == "0017.png" else 1.0 for path in paths]
    monkeypatch.setitem(sys.modules, "my_scores", module)
    monkeypatch.setattr(module.odd, "__name__", "odd")
    folder = draw_images(tmp_path / "theirs", 24)
    with pytest.raises(UserError, match="metric odd: the score of .*0017.png is nan, must be finite"):
        result_of(folder, protocol(metrics=["my_scores:odd"]), out=tmp_path / "out")


def test_plug_ins_and_packages(protocol, tmp_path, monkeypatch):
    module = types.ModuleType("my_scores")
    module.brightness = lambda paths, prompts: torch.arange(len(paths), dtype=torch.float32)
    monkeypatch.setitem(sys.modules, "my_scores", module)
    hpsv2 = types.ModuleType("hpsv2")
    hpsv2.score = lambda path, prompt, hps_version: [np.float32(len(prompt) / 10)]
    monkeypatch.setitem(sys.modules, "hpsv2", hpsv2)

    class Inferencer:  # of each image the mean and the deviation
        def reward(self, *, prompts, image_paths):
            pairs = zip(prompts, image_paths, strict=True)
            return [torch.tensor([len(prompt) + int(path[-8:-4]), 99.0]) for prompt, path in pairs]

    hpsv3 = types.ModuleType("hpsv3")
    hpsv3.HPSv3RewardInferencer = Inferencer
    monkeypatch.setitem(sys.modules, "hpsv3", hpsv3)
    folder = draw_images(tmp_path / "theirs", 24)
    metrics = ["my_scores:brightness", "hpsv2", "hpsv3"]
    result = result_of(folder, protocol(metrics=metrics), out=tmp_path / "out")
    assert result["metrics"]["my_scores:brightness"]["value"] == pytest.approx(11.5)
    assert 0.5 < result["metrics"]["hpsv2"]["value"] < 0.7
    lengths = [2 + len(word) for word in LINE.split()]
    assert result["metrics"]["hpsv3"]["value"] == pytest.approx(11.5 + sum(lengths) / 24)
    monkeypatch.setitem(sys.modules, "ImageReward", None)
    with pytest.raises(UserError, match="image_reward needs the package ImageReward: run `pip install image-reward`"):
        result_of(folder, protocol(metrics=["image_reward"]), out=tmp_path / "out")


def test_a_plug_in_is_found_beside_its_protocol_from_any_folder(protocol, tmp_path, monkeypatch):
    path = protocol(metrics=["scores_beside_it:brightness"])
    plug_in = "import torch\n\ndef brightness(paths, prompts):\n    return torch.ones(len(paths))\n"
    (tmp_path / "scores_beside_it.py").write_text(plug_in)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    folder = draw_images(tmp_path / "theirs", 24)
    assert result_of(folder, path, out=tmp_path / "out")["metrics"]["scores_beside_it:brightness"]["value"] == 1


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        ({"metrics": ["fidd"]}, {}, "metrics: 'fidd' is not known"),
        ({"metrics": ["authenticity"]}, {}, "authenticity needs `training: "),
        ({"metrics": ["spread"]}, {}, "spread needs prompts.samples_per_prompt"),
        ({"reference": {"path": "real", "num_images": 41}}, {}, "reference .*real: 40 images, but .* 41"),
        ({"reference": {"path": "none"}}, {}, "reference .*none: no such folder"),
        ({}, {"num_images": 9}, "fid needs at least 10 images, but there are 9"),
        ({}, {"num_images": 25}, "--num-images 25: give a multiple of 1 up to 24"),
        ({"images": {"size": 64}}, {"steps": 1}, "reference image .*: 32x32 pixels, but the protocol measures at 64"),
    ],
)
def test_mistakes_are_named(tiny_model, protocol, tmp_path, parts, options, message):
    with pytest.raises(UserError, match=message):
        result_of(tiny_model, protocol(**parts), out=tmp_path / "out", **options)


def test_the_nearest_training_images_are_shown_copies_first(protocol, tmp_path, monkeypatch):
    folder, seen = draw_images(tmp_path / "theirs", 24, seed=7), draw_images(tmp_path / "seen", 30, seed=8)
    (folder / "0017.png").write_bytes((seen / "0005.png").read_bytes())
    shown = []
    monkeypatch.setattr(module, "labelled_grid", lambda c: shown.append(c) or labelled_grid(c))
    path = protocol(metrics=["authenticity"], training={"path": "seen"})
    result = result_of(folder, path, out=tmp_path / "out")
    samples, training = shown[0]["sample"], shown[0]["nearest training image"]
    assert samples[0][0] == "0.00: a ring" and samples[0][1].equal(training[0][1])
    ratios = [float(label.partition(":")[0]) for label, _ in samples]
    assert len(ratios) == 12 and ratios == sorted(ratios)
    copies = sum(ratio <= 1 for ratio in ratios)
    assert result["metrics"]["authenticity"]["value"] <= 1 - copies / 24


def test_measured_images_are_packed_or_removed_and_not_made_again(tiny_model, protocol, tmp_path, monkeypatch):
    path, out = protocol(metrics=["kid"]), tmp_path / "out"
    whole = result_of(tiny_model, path, steps=1, out=tmp_path / "whole")
    expected = [file.read_bytes() for file in sorted((tmp_path / "whole" / "images").iterdir())]
    monkeypatch.setattr(sample_folder, "IMAGES_PER_SHARD", 10)
    result = result_of(tiny_model, path, steps=1, out=out, keep="shards")
    assert result["metrics"] == whole["metrics"] and not any((out / "images").iterdir())
    assert [file.name for file in sorted(out.glob("*.tar"))] == [f"images-{i:05d}.tar" for i in range(3)]
    items = [item for shard in tar_shards(str(out), Columns()) for item in shard(0)]  # as a training would read them
    assert [item.image for item in items] == expected
    assert [item.captions for item in items] == [(f"a {word}",) for word in LINE.split()]
    monkeypatch.setattr(module, "make_files", lambda *args, **options: pytest.fail("made again"))
    assert result_of(tiny_model, path, steps=1, out=out) == result
    for changed in ({"seed": 1}, {"steps": 2}):
        with pytest.raises(pytest.fail.Exception):
            result_of(tiny_model, path, **{"steps": 1, "out": out, **changed})
    with pytest.raises(pytest.fail.Exception):
        result_of(tiny_model, protocol(metrics=["kid", "fid"]), steps=1, out=out)
    (out / "images" / ".000003-a.png.77.tmp").write_bytes(b"half a fi")
    (out / "images" / "000003-a-cat-0123456789.png").write_bytes(expected[0])  # of another seed
    path = protocol(metrics=["kid"])
    assert result_of(tiny_model, path, steps=1, out=out) == result, "leftovers of others do not count"
    networks = read_protocol(str(path)).networks.model_dump() | {"inception": "other"}
    with pytest.raises(pytest.fail.Exception):
        result_of(tiny_model, protocol(metrics=["kid"], networks=networks), steps=1, out=out)


def test_nothing_is_kept_where_that_is_asked(tiny_model, protocol, tmp_path):
    out = tmp_path / "out"
    result_of(tiny_model, protocol(metrics=["kid"]), steps=1, out=out, keep="nothing")
    assert not any((out / "images").iterdir()) and not list(out.glob("*.tar")) and (out / "grid.png").exists()
    theirs = draw_images(tmp_path / "theirs", 24)
    with pytest.raises(UserError, match="--keep shards: the images of .* are not ours to move; leave it out"):
        result_of(theirs, protocol(metrics=["kid"]), out=tmp_path / "other", keep="shards")
    assert len(list(theirs.iterdir())) == 24
