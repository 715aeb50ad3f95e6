"""Evaluations over files: every metric end to end on tiny copies, and what is refused before an image is made."""

import json
import sys
import types

import numpy as np
import pytest
import torch

from e2ed2.data.columns import Columns
from e2ed2.data.shards import tar_shards
from e2ed2.errors import UserError
from e2ed2.evaluation import evaluate_files as evaluate_files_module
from e2ed2.evaluation import sample_files
from e2ed2.evaluation.distribution import frechet_distance, kernel_distance
from e2ed2.evaluation.evaluate_files import evaluate_files
from e2ed2.evaluation.grids import comparison_grid
from e2ed2.evaluation.image_set import ImageSet, list_images
from e2ed2.evaluation.measures import MEASURES
from e2ed2.evaluation.processes import Share
from e2ed2.evaluation.results import read_jackknife
from e2ed2.evaluation.sample_files import make_files
from e2ed2.evaluation.samples import load_model, requests_for
from tests.evaluation.conftest import LINE, StubInception, draw_images

ALL = [name for name in MEASURES if name not in ("hpsv2", "hpsv3", "image_reward", "spread", "authenticity")]


def result_of(model, protocol, **options):
    found = evaluate_files(str(model), str(protocol), **options)
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
    assert "fid: biased at 24 images (samples); compare at equal counts only; kid is unbiased" in result["notes"][0]
    assert set(read_jackknife(out)) == set(result["metrics"])
    assert (out / "nearest_training.png").exists()
    # the same figures from the kept images, by the functions over features in memory
    samples = ImageSet(list_images(out / "images", "samples"), "samples", 32)
    real = ImageSet(list_images(tmp_path / "real", "reference"), "reference", 32)
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


def test_a_folder_of_images_is_measured_as_it_is(protocol, tmp_path):
    path = protocol(metrics=["fid", "clip_score"])
    folder = draw_images(tmp_path / "theirs", 24, side=48, seed=5)
    result = result_of(folder, path, out=tmp_path / "out")
    assert result["nfe"] == 0 and result["metrics"]["fid"]["value"] > 0
    (folder / "0000.png").unlink()
    with pytest.raises(UserError, match="23 images, but the protocol asks 24, one for each prompt in order"):
        result_of(folder, path, out=tmp_path / "out")


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
    monkeypatch.setattr(evaluate_files_module, "comparison_grid", lambda c: shown.append(c) or comparison_grid(c))
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
    monkeypatch.setattr(sample_files, "IMAGES_PER_SHARD", 10)
    result = result_of(tiny_model, path, steps=1, out=out, keep="shards")
    assert result["metrics"] == whole["metrics"] and not any((out / "images").iterdir())
    assert [file.name for file in sorted(out.glob("*.tar"))] == [f"images-{i:05d}.tar" for i in range(3)]
    items = [item for shard in tar_shards(str(out), Columns()) for item in shard(0)]  # as a training would read them
    assert [item.image for item in items] == expected
    assert [item.captions for item in items] == [(f"a {word}",) for word in LINE.split()]
    monkeypatch.setattr(evaluate_files_module, "make_files", lambda *args, **options: pytest.fail("made again"))
    assert result_of(tiny_model, path, steps=1, out=out) == result
    for changed in ({"seed": 1}, {"steps": 2}):
        with pytest.raises(pytest.fail.Exception):
            result_of(tiny_model, path, **{"steps": 1, "out": out, **changed})
    with pytest.raises(pytest.fail.Exception):
        result_of(tiny_model, protocol(metrics=["kid", "fid"]), steps=1, out=out)
    monkeypatch.undo()


def test_nothing_is_kept_where_that_is_asked(tiny_model, protocol, tmp_path):
    out = tmp_path / "out"
    result_of(tiny_model, protocol(metrics=["kid"]), steps=1, out=out, keep="nothing")
    assert not any((out / "images").iterdir()) and not list(out.glob("*.tar")) and (out / "grid.png").exists()
    theirs = draw_images(tmp_path / "theirs", 24)
    with pytest.raises(UserError, match="--keep shards: the images of .* are not ours to move; leave it out"):
        result_of(theirs, protocol(metrics=["kid"]), out=tmp_path / "other", keep="shards")
    assert len(list(theirs.iterdir())) == 24
