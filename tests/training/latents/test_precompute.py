"""`e2ed2 precompute`: kills, and what it refuses. That a cache trains like its source is in test_user_data.py."""

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from e2ed2.data.cache import CachedSet
from e2ed2.recipe.load import build_config
from e2ed2.system.errors import UserError
from e2ed2.training.latents import precompute as module
from e2ed2.training.latents.precompute import precompute
from e2ed2.training.loop import train
from tests.data.conftest import write_tar


@pytest.fixture(autouse=True)
def small_shards(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(module, "SHARD_SIZE", 4)


@pytest.fixture
def photos(tmp_path) -> Path:
    """11 photos, two of them wide, and a bad one."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(11):
        noise = torch.randint(256, (8, 8, 3), generator=torch.Generator().manual_seed(i)).byte().numpy()
        Image.fromarray(noise).resize((120, 64) if i in (2, 7) else (64, 64)).save(folder / f"{i:02d}.png")
        (folder / f"{i:02d}.txt").write_text(f"photo {i}")
    (folder / "05.png").write_bytes(b"noise")
    return folder


@pytest.fixture
def shards(photos, tmp_path) -> Path:
    for shard in range(2):
        files = sorted(photos.glob("*.png"))[shard::2]
        samples = {p.stem: {"png": p.read_bytes(), "txt": p.with_suffix(".txt").read_bytes()} for p in files}
        write_tar(tmp_path / "shards" / f"{shard}.tar", samples)
    return tmp_path / "shards"


def recipe(model, path, source="folder", **data):
    shapes = {"max_ratio": 2.5, "step": 16}
    return build_config(
        {
            "stage": "e2ed2",
            "run": {"dir": "unused"},
            "model": {"path": str(model)},
            "data": {"source": source, "path": str(path), "max_bad_fraction": 0.3, "buckets": shapes, **data},
            "objective": {"l2": {"weight": 1}},
        }
    )


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


DIES = """
import json, os, signal, sys
from pathlib import Path
from e2ed2.data import cache
from e2ed2.training.latents import precompute as module
from e2ed2.recipe.load import build_config

module.SHARD_SIZE = 4
save_file, calls = cache.save_file, []

def save_half(tensors, path, metadata=None):
    save_file(tensors, path, metadata)
    calls.append(path)
    if len(calls) == int(sys.argv[1]) + 1:
        os.truncate(path, path.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)

cache.save_file = save_half
module.precompute(build_config(json.loads(sys.argv[2])), Path(sys.argv[3]), lambda line: None)
"""


def killed_in_the_middle_of_shard(number, config, out):
    """Precompute in a process of its own (a fork of one whose threads run would crash) that dies writing that shard."""
    values = json.dumps(config.model_dump(mode="json"))
    ended = subprocess.run([sys.executable, "-c", DIES, str(number), values, str(out)], capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()


@pytest.mark.slow
@pytest.mark.parametrize("source", ["folder", "webdataset"])
def test_after_a_kill_it_goes_on_with_nothing_torn_or_doubled(source, tiny_model, photos, shards, tmp_path):
    config, lines, progress = recipe(tiny_model, photos if source == "folder" else shards, source), [], []
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    precompute(config, whole, lines.append, lambda *report: progress.append(report))
    assert len([line for line in lines if "05" in line]) == 1  # the bad one
    assert progress[-1] == (("encoding", 10, 10) if source == "folder" else ("encoding", 0, 0))
    killed_in_the_middle_of_shard(1, config, cut)
    done = cut / "shards" / "000000.safetensors"
    written = done.stat().st_mtime_ns
    with pytest.raises(UserError, match="unfinished; run the same `e2ed2 precompute` again"):
        CachedSet(cut)
    precompute(config, cut, lambda line: None)
    assert done.stat().st_mtime_ns == written  # not made again
    temporary = {path for path in contents(cut) if path.name.startswith(".")}
    assert {path: data for path, data in contents(cut).items() if path not in temporary} == contents(whole)
    data = CachedSet(whole)
    assert len(data) == 10 and len(set(data.first_captions())) == 10 and data.buckets.bincount().tolist() == [8, 2]


def test_again_it_has_nothing_to_do_and_another_recipe_is_refused(tiny_model, photos, tmp_path, monkeypatch):
    out = precompute(recipe(tiny_model, photos), tmp_path / "cache", lambda line: None)
    before = contents(out)
    with monkeypatch.context() as patch:
        patch.setattr(module._Encoder, "encode", pytest.fail)
        precompute(recipe(tiny_model, photos), out, lambda line: None)
    assert contents(out) == before
    with pytest.raises(UserError, match=r"--out .*: holds a cache made with another data.buckets"):
        precompute(recipe(tiny_model, photos, buckets={}), out, lambda line: None)
    (photos / "00.txt").write_text("another caption")
    with pytest.raises(UserError, match=r"--out .*: holds a cache made with another data \("):
        precompute(recipe(tiny_model, photos), out, lambda line: None)
    with pytest.raises(UserError, match="holds other files; name a new folder"):
        precompute(recipe(tiny_model, photos), photos, lambda line: None)
    with pytest.raises(UserError, match="--out .*: not a folder that can be written"):
        precompute(recipe(tiny_model, photos), photos / "00.png", lambda line: None)
    assert contents(out) == before


def test_what_was_kept_is_of_its_kind_or_named(tiny_model, photos, tmp_path):
    config = recipe(tiny_model, photos)
    out = precompute(config, tmp_path / "cache", lambda line: None)
    whole = contents(out)
    shard = out / "shards" / "000001.safetensors"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(UserError, match="000001.safetensors: damaged .*; remove it, and run the same `e2ed2 pre"):
        precompute(config, out, lambda line: None)
    shard.unlink()
    assert contents(precompute(config, out, lambda line: None)) == whole
    (out / "cache.json").write_text("[]")
    with pytest.raises(UserError, match="cache .*cache.json: must hold fields, found list; remove the folder, and pre"):
        precompute(config, out, lambda line: None)


def test_processes_share_the_shards_and_the_last_one_finishes(tiny_model, photos, tmp_path, monkeypatch):
    config, whole, shared = recipe(tiny_model, photos), tmp_path / "whole", tmp_path / "shared"
    precompute(config, whole, lambda line: None)
    for rank in (1, 0):
        process = SimpleNamespace(
            device=torch.device("cpu"), num_processes=2, process_index=rank, is_main_process=rank == 0
        )
        monkeypatch.setattr(module, "process_state", lambda process=process: process)
        precompute(config, shared, lambda line: None)
        done = {path.stem for path in (shared / "shards").iterdir()}
        assert done == ({"000001"} if rank == 1 else {"000000", "000001", "000002"})
    assert contents(shared) == contents(whole)


@pytest.mark.parametrize("is_native", [False, True])
def test_the_same_recipe_trains_on_its_cache_whatever_auto_means_here(
    is_native, tiny_model, photos, tmp_path, monkeypatch
):
    monkeypatch.setattr("e2ed2.training.precision.has_bf16", lambda device: is_native)
    out = precompute(recipe(tiny_model, photos), tmp_path / "out", lambda line: None)
    values = recipe(tiny_model, out, "cache").model_dump()
    values["run"]["dir"] = tmp_path / "run"
    values["train"] |= {"max_train_steps": 1, "micro_batch_size": 2}
    config = build_config(values)
    assert config.train.mixed_precision == "auto"
    train(config, lambda line: None)


def test_pictures_are_kept_where_an_objective_looks_at_them(tiny_model, photos, tmp_path):
    config = recipe(tiny_model, photos)
    out = precompute(config, tmp_path / "without", lambda line: None)
    assert not CachedSet(out).has_images
    values = json.loads(config.model_dump_json()) | {"objective": {"mmd": {"weight": 1}}}
    data = CachedSet(precompute(build_config(values), tmp_path / "with", lambda line: None))
    assert data.has_images and data.image(0).shape == (3, 64, 64) and data.image(2).shape == (3, 48, 80)


def test_what_cannot_be_precomputed(tiny_model, photos, tmp_path):
    config = recipe(tiny_model, photos)
    with pytest.raises(UserError, match="precompute: needs images"):
        precompute(recipe(tiny_model, photos, "cache"), tmp_path / "out", lambda line: None)
    stream = {"source": "webdataset", "path": str(photos)}
    values = json.loads(config.model_dump_json()) | {"data": {"sources": [stream, stream]}}
    with pytest.raises(UserError, match="data.sources: mixed streams have no end"):
        precompute(build_config(values), tmp_path / "out", lambda line: None)


@pytest.mark.parametrize("source", ["folder", "webdataset"])
def test_a_cache_of_another_default_caption_is_not_gone_on_with(tiny_model, photos, shards, tmp_path, source):
    (photos / "03.txt").unlink()
    write_tar(shards / "2.tar", {"x": {"png": (photos / "03.png").read_bytes()}})
    out, path = tmp_path / "out", photos if source == "folder" else shards
    precompute(recipe(tiny_model, path, source), out, print)
    if source == "webdataset":  # what earlier versions, which had no such field, say of the same stream
        fields = {"source": source, "path": str(path), "revision": None, "split": "train", "streaming": False}
        fields |= {"image_column": None, "caption_column": None, "caption_per_line": False}
        found = json.loads((out / "cache.json").read_text())["data"]
        assert found == hashlib.sha256(repr(fields).encode()).hexdigest()[:16]
    with pytest.raises(UserError, match="holds a cache made with another data"):
        precompute(recipe(tiny_model, path, source, default_caption="a photo"), out, print)
    precompute(recipe(tiny_model, path, source, default_caption="a photo"), tmp_path / "other", print)
    captions = [CachedSet(folder).first_captions() for folder in (out, tmp_path / "other")]
    assert [len(texts) for texts in captions] == ([9, 10] if source == "folder" else [10, 11])
    assert "a photo" in captions[1] and "a photo" not in captions[0]
