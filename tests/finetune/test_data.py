"""What a user's DATA is taken for, and what is refused in which words."""

import os
from pathlib import Path

import pytest

from e2ed2.data.sources.columns import Columns
from e2ed2.data.sources.shards import tar_shards
from e2ed2.finetune import data as module
from e2ed2.finetune.data import data_fields
from e2ed2.recipe.load import build_config, check_config
from e2ed2.system.errors import UserError
from tests.data.conftest import png, write_tar


def touch(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return str(folder)


@pytest.mark.parametrize(
    ("names", "source"),
    [
        (["a.png"], "folder"),
        (["sub/deep/a.JPG", "sub/deep/a.txt", "metadata.jsonl", "cache.json"], "folder"),
        (["a.heic"], "folder"),  # whose own message says what to do
        (["a.jpg", ".hidden/0.tar", ".b.parquet", "c.zip"], "folder"),
        (["00000.tar", "sub/00001.tar", "00000_stats.json"], "webdataset"),
        (["README.md", "data/train-0.parquet"], "parquet"),
        (["cache.json", "shards/0.safetensors", "index.safetensors"], "cache"),
        (["cache.json"], "cache"),  # one that was just begun
    ],
)
def test_a_folder_is_what_its_files_are(tmp_path, names, source):
    folder = touch(tmp_path / "it", *names)
    assert data_fields(folder) == {"source": source, "path": folder}
    assert data_fields(f"{folder}/")["source"] == source
    (tmp_path / "link").symlink_to(folder)
    assert data_fields(str(tmp_path / "link"))["source"] == source


@pytest.mark.parametrize(
    ("data", "source"),
    [
        ("https://a.org/set/00000.tar", "webdataset"),
        ("s3://bucket/{00000..00099}.tar", "webdataset"),
        ("s3://bucket/00000.tar.gz", "webdataset"),
        ("shards/*.tar", "webdataset"),
        ("s3://bucket/**/*.parquet", "parquet"),
        ("hf://datasets/org/name/data/a.parquet", "parquet"),
        ("tables/[ab].parquet", "parquet"),
        ("lambdalabs/naruto-blip-captions", "hub"),
        ("org/set.v1.5", "hub"),
    ],
)
def test_a_url_a_pattern_or_a_name_is_what_it_ends_in(data, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert data_fields(data) == {"source": source, "path": data}
    values = {"stage": "e2ed2", "run": {"dir": "x"}, "model": {"path": "y"}, "objective": {"l2": {"weight": 1}}}
    check_config(build_config(values | {"data": {"source": source, "path": data}}))


def test_what_is_on_disk_is_looked_at_whatever_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "org/name", "a.png")
    touch(tmp_path / "set.tar", "a.parquet")
    touch(tmp_path / "files", "0.tar", "1.tgz", "2.parquet", "[v2].parquet")
    sources = {"org/name": "folder", "set.tar": "parquet", "files/0.tar": "webdataset", "files/1.tgz": "webdataset"}
    sources |= {"files/2.parquet": "parquet", "files/[v2].parquet": "parquet"}
    assert {name: data_fields(name)["source"] for name in sources} == sources


def test_a_folder_of_two_kinds_is_refused_with_their_counts(tmp_path):
    folder = touch(tmp_path / "it", "a.png", "b.jpg", "sub/0.tar")
    with pytest.raises(UserError) as caught:
        data_fields(folder)
    found, remedy = "a folder that holds 2 images and 1 .tar shard", f"keep one kind in it, or give '{folder}/**/*.tar'"
    assert str(caught.value) == f"DATA '{folder}': {found}; {remedy}"
    os.remove(tmp_path / "it" / "a.png")
    os.remove(tmp_path / "it" / "b.jpg")
    touch(tmp_path / "it", "0.parquet", "1.parquet")
    patterns = f"'{folder}/**/*.tar' or '{folder}/**/*.parquet'"
    with pytest.raises(UserError) as caught:
        data_fields(folder)
    found = "a folder that holds 2 .parquet files and 1 .tar shard"
    assert str(caught.value) == f"DATA '{folder}': {found}; keep one kind in it, or give {patterns}"


def test_the_pattern_that_is_offered_names_the_same_shards(tmp_path):
    write_tar(tmp_path / "a [v2]" / "0.tar", {"x": {"png": png(1), "txt": b"one"}})
    write_tar(tmp_path / "a [v2]" / "sub" / "1.tar", {"y": {"png": png(1), "txt": b"two"}})
    pattern = f"{tmp_path}/a [v2]/**/*.tar"
    assert data_fields(pattern)["source"] == "webdataset"
    assert len(tar_shards(pattern, Columns())) == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nothing", "nothing there; give a folder of images, "),
        ("", "nothing there; "),
        ("./nothing/here", "nothing there; "),
        ("a/b/c", "nothing there; "),
        ("photos/gone.zip", "nothing there; "),
        ("photos/gone.jpg", "nothing there; "),
        ("photos/gone.tar", "nothing there; "),
        ("photos/*.jpg", "nothing there; "),
        ("s3://bucket/photos", "a URL of neither .tar nor .parquet files; "),
        ("https://huggingface.co/datasets/org/name", "a URL of neither .tar nor .parquet files; .* hub, org/name$"),
        ("photos", "an empty folder; "),
        ("texts", r"a folder; its files \(2\) are neither images nor .tar nor .parquet; "),
        ("zipped", "a folder without images, but with zipped/a.zip: unpack it"),
        ("files/a.png", "one image; give the folder that it is in"),
        ("files/a.HEIC", "one image; "),
        ("files/a.zip", "an archive: unpack it, and give the folder"),
        ("files/a.txt", "neither a folder nor a .tar or .parquet file; "),
    ],
)
def test_what_is_refused(data, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "photos", ".hidden.png")
    touch(tmp_path / "texts", "a.txt", "b.csv")
    touch(tmp_path / "zipped", "a.zip", "b.txt")
    touch(tmp_path / "files", "a.png", "a.HEIC", "a.zip", "a.txt")
    with pytest.raises(UserError, match=f"^DATA '{data}': {message}".replace("*", "[*]", data.count("*"))) as caught:
        data_fields(data)
    assert "\n" not in str(caught.value)


def test_a_large_folder_is_not_looked_through(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_LOOKED_AT", 3)
    folder = touch(tmp_path, *(f"{i}.png" for i in range(5)))
    looked_at = []
    files = module.visible_files
    monkeypatch.setattr(module, "visible_files", lambda path: (looked_at.append(file) or file for file in files(path)))
    assert data_fields(folder)["source"] == "folder" and len(looked_at) == 3
