"""Every file that an evaluation reads back, mangled: taken or refused in one line."""

import json
import random

import numpy as np
import pytest
import torch
import yaml

from e2ed2.demo.page import compared
from e2ed2.evaluation.metrics.intervals import mean_estimate, paired_difference
from e2ed2.evaluation.protocols import FOLDERS, Prompts, read_prompts, read_protocol
from e2ed2.evaluation.results import (
    EVALUATION_FILE,
    JACKKNIFE_FILE,
    evaluation_markdown,
    keep_result,
    read_jackknife,
    read_result,
    read_results,
)
from e2ed2.models.folders.bundled import WEIGHTS
from e2ed2.reports.compare import compare, markdown, to_json
from e2ed2.reports.run_page import write_report
from e2ed2.system.errors import UserError
from e2ed2.system.watch import silent
from tests.evaluation.tiny import draw_images
from tests.mangle import mangled_bytes, mangled_json, mangled_values, share_taken, times

RESULT = WEIGHTS / "emoji-e2ed2" / "evaluation" / "anystyle-4.json"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path / "cache"))


def test_mangled_results(tmp_path):
    """What is taken can be printed, compared and shown."""
    values, path = json.loads(RESULT.read_text()), tmp_path / "a.json"

    def use():
        evaluation_markdown(read_result(path))
        tables = compare([path, RESULT], baseline=RESULT)
        json.dumps(to_json(tables))
        markdown(tables).encode()

    assert 0 < share_taken(lambda rng: path.write_bytes(mangled_json(values, rng)), use, 150) < 1


def test_mangled_tables_of_a_run(tmp_path):
    values = [json.loads(RESULT.read_text())] * 2

    def damage(rng):
        (tmp_path / "metrics.json").write_bytes(mangled_json(values, rng))
        (tmp_path / "config.yaml").write_bytes(mangled_bytes(b"stage: e2ed2\nevaluation: {metric: fid}\n", rng))
        (tmp_path / "environment.json").write_bytes(mangled_json({"torch": "2", "commit": None}, rng))

    assert 0 < share_taken(damage, lambda: read_results(tmp_path / "metrics.json"), 25) < 1
    assert 0 < share_taken(damage, lambda: write_report(tmp_path, compared(tmp_path)), 25) < 1


def test_mangled_jackknife_is_none_or_pairs(tmp_path):
    """Its content is not told by a hash: another number of groups is refused, never more."""
    metrics = {"fid": mean_estimate(torch.rand(12)), "kid": mean_estimate(torch.rand(9))}
    result = json.loads(RESULT.read_text()) | {"metrics": {name: e.to_json() for name, e in metrics.items()}}
    for name in ("a", "b"):
        keep_result(result, metrics, tmp_path / name)
    whole = (tmp_path / "a" / JACKKNIFE_FILE).read_bytes()

    def damage(rng):
        (tmp_path / "a" / JACKKNIFE_FILE).write_bytes(mangled_bytes(whole, rng))

    assert share_taken(damage, lambda: compare([tmp_path / "a", tmp_path / "b"], baseline=tmp_path / "b"), 150) > 0
    (tmp_path / "a" / JACKKNIFE_FILE).write_bytes(whole)
    assert set(read_jackknife(tmp_path / "a")) == {"fid", "kid"}
    with pytest.raises(UserError, match="needs the same prompts"):
        paired_difference(metrics["fid"], metrics["kid"])
    (tmp_path / "a" / EVALUATION_FILE).write_text("{}")
    assert read_jackknife(tmp_path / "a") == {}, "of another evaluation"


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".json", ".coco.json"])
def test_mangled_captions(tmp_path, suffix):
    captions = ["a red cat", "é 🐱", "three, four"]
    coco = [{"image_id": i, "id": i, "caption": caption} for i, caption in enumerate(captions)]
    text = {
        ".txt": "\n".join(captions) + "\n",
        ".jsonl": "".join(json.dumps({"text": caption}) + "\n" for caption in captions),
        ".csv": "text,x\n" + "".join(f'"{caption}",1\n' for caption in captions),
        ".json": json.dumps({i: {"prompt": caption} for i, caption in enumerate(captions)}),
        ".coco.json": json.dumps({"annotations": coco}),
    }[suffix]
    path = tmp_path / f"a{suffix}"

    def damage(rng):
        if suffix.endswith("json") and rng.random() < 0.5:
            path.write_bytes(mangled_json(json.loads(text), rng))
        else:
            path.write_bytes(mangled_bytes(text.encode(), rng))

    assert 0 < share_taken(damage, lambda: "".join(read_prompts(path, Prompts(path="x", num=2))).encode(), 60) < 1


def test_mangled_folder_of_captions(tmp_path):
    folder = draw_images(tmp_path / "pairs", 3)
    rows = "".join(json.dumps({"file_name": f"{i:04d}.png", "text": f"a {i}"}) + "\n" for i in range(3))

    def damage(rng):
        (folder / "metadata.jsonl").write_bytes(mangled_bytes(rows.encode(), rng))

    assert 0 < share_taken(damage, lambda: read_prompts(folder, Prompts(path="x", num=3))) < 1


def test_mangled_protocols(tmp_path):
    """What is taken can be loaded, or says what is missing."""
    draw_images(tmp_path / "real", 24)
    (tmp_path / "a.txt").write_text("".join(f"{i}\n" for i in range(24)))
    shipped = [path.read_bytes() for path in sorted(FOLDERS[0].glob("*.yaml"))]
    whole = {"prompts": {"path": "a.txt", "num": 24}, "reference": {"path": "real"}, "metrics": ["kid", "recall"]}
    path = tmp_path / "a.yaml"

    def damage(rng):
        if rng.random() < 0.5:
            path.write_bytes(mangled_bytes(rng.choice(shipped), rng))
        else:
            path.write_text(yaml.safe_dump(whole if rng.random() < 0.3 else mangled_values(whole, rng)))

    assert 0 < share_taken(damage, lambda: read_protocol(str(path)).load(str(path), None, tmp_path, silent), 80) < 1


def test_mangled_features_are_measured_anew(tmp_path):
    from e2ed2.data.image_set import TensorImages
    from e2ed2.evaluation.features.store import stored_features
    from tests.evaluation.tiny import StubInception

    images = TensorImages(torch.randint(256, (9, 3, 16, 16), dtype=torch.uint8), "reference")

    def features():
        return stored_features(images, "x", StubInception(), tmp_path, lambda done, total: None)

    first = features().clone()
    [path] = tmp_path.glob("*.npy")
    whole = path.read_bytes()
    for seed in times(60):
        path.unlink()  # the old one stays mapped
        head, rows = whole[: -first.nbytes], whole[-first.nbytes :]
        path.write_bytes(mangled_bytes(head, random.Random(seed)) + rows)
        found = features()
        assert found.shape == first.shape and found.dtype == torch.float32
    path.unlink()
    np.save(path, np.zeros((9, 12)))  # of another type
    assert torch.equal(features(), first)
