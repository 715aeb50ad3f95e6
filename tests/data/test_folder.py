"""The folder source on real files, good and bad."""

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from e2ed2.data.batch import ImageTextSet
from e2ed2.data.source_set import SourceSet
from e2ed2.data.sources.folder import IMAGE_SUFFIXES, FolderSource
from e2ed2.recipe.data import DataConfig
from e2ed2.system.errors import UserError
from e2ed2.training.latents.training_set import load_user_data

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def write_pair(folder: Path, name: str, caption: str | None = "a thing", color=RED) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), color).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def load(folder: Path, max_bad_fraction: float = 0.99, progress=None, num_workers: int = 2) -> ImageTextSet:
    sources = [(str(folder), FolderSource(folder))]
    data = SourceSet(sources, [1.0], [(8, 8)], max_bad_fraction, num_workers, progress=progress).in_memory()
    assert data is not None
    return data


def reasons(data: ImageTextSet) -> dict[str, str]:
    return {Path(item.path).name: item.reason for item in data.skipped}


def pixel(image: torch.Tensor, y: int = 0, x: int = 0) -> tuple[int, ...]:
    return tuple(image[:, y, x].tolist())


# A folder with text files


def test_images_captions_and_keys_in_order_of_paths(tmp_path):
    write_pair(tmp_path, "b.png", "  green\n leaf ", GREEN)
    write_pair(tmp_path, "a.PNG", "red apple", RED)
    write_pair(tmp_path, "sub/c.bmp", "blue sky", BLUE)
    data = load(tmp_path, 0.0)
    assert data.images.shape == (3, 3, 8, 8) and data.images.dtype == torch.uint8
    assert [pixel(image) for image in data.images] == [RED, GREEN, BLUE]
    assert data.captions == ["red apple", "green leaf", "blue sky"]
    assert data.keys == ["a.PNG", "b.png", "sub/c.bmp"]
    assert data.skipped == [] and len(data) == 3


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_every_suffix_is_read(tmp_path, suffix):
    write_pair(tmp_path, f"a{suffix}")
    assert load(tmp_path, 0.0).keys == [f"a{suffix}"]


def test_bad_items_are_skipped_with_their_reason(tmp_path):
    write_pair(tmp_path, "good.png")
    write_pair(tmp_path, "none.png", caption=None)
    write_pair(tmp_path, "empty.png", caption=" \n")
    write_pair(tmp_path, "latin.png").with_suffix(".txt").write_bytes(b"caf\xe9")
    write_pair(tmp_path, "noise.png").write_bytes(b"not an image")
    (tmp_path / "zero.webp").touch()
    (tmp_path / "zero.txt").write_text("nothing")
    data = load(tmp_path)
    assert data.keys == ["good.png"]
    assert reasons(data) == {
        "none.png": "no caption: none.txt is missing",
        "empty.png": "empty.txt: caption is empty",
        "latin.png": "latin.txt: caption is not UTF-8 text (byte 0xe9)",
        "noise.png": "not a PNG, JPEG, WebP, BMP, GIF, TIFF or AVIF image",
        "zero.webp": "not a PNG, JPEG, WebP, BMP, GIF, TIFF or AVIF image",
    }


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif", ".avif"])
def test_truncated_file_is_skipped(tmp_path, suffix):
    write_pair(tmp_path, "good.png")
    path = tmp_path / f"cut{suffix}"
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    path.with_suffix(".txt").write_text("half a picture")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    data = load(tmp_path)
    assert data.keys == ["good.png"] and list(reasons(data)) == [path.name]


def test_png_with_damaged_bytes_is_skipped(tmp_path):
    write_pair(tmp_path, "good.png")
    path = write_pair(tmp_path, "bad.png")
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b"IDAT") + 8] ^= 0xFF
    path.write_bytes(damaged)
    assert list(reasons(load(tmp_path))) == ["bad.png"]


def test_hidden_files_and_other_files_are_no_items(tmp_path):
    write_pair(tmp_path, "a.png")
    write_pair(tmp_path, "._a.png", caption=None)
    write_pair(tmp_path, ".thumbs/a.png", caption=None)
    (tmp_path / "README.txt").write_text("words")
    assert load(tmp_path, 0.0).keys == ["a.png"]


def test_images_of_kinds_that_are_not_read_are_skipped_with_a_remedy(tmp_path):
    write_pair(tmp_path, "good.png")
    write_pair(tmp_path, "shot.png").rename(tmp_path / "shot.HEIC")
    write_pair(tmp_path, "gone.png").unlink()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert reasons(load(tmp_path)) == {
        "shot.HEIC": ".HEIC images are not read: convert it to PNG or JPEG, or remove it",
        "gone.png": "a link that leads nowhere, or no file",
    }
    with pytest.raises(UserError, match=r"2 of 3 items \(66.7%\) are unusable"):
        load(tmp_path, 0.5)


def test_linked_folders_are_read_and_links_back_end(tmp_path):
    write_pair(tmp_path / "disk", "a.png")
    write_pair(tmp_path / "disk", "sub/b.png")
    for place, target in {"set/x": "disk", "set/y": "disk/sub", "set/back": "set", "disk/up": "set"}.items():
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).symlink_to(tmp_path / target)
    assert load(tmp_path / "set", 0.0).keys == ["x/a.png", "x/sub/b.png", "y/b.png"]


# Refused folders


def test_missing_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="data.path '.*nowhere' is not a folder"):
        load(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no image here")
    with pytest.raises(UserError, match="holds no images"):
        load(tmp_path)


def test_no_usable_item_is_refused_whatever_the_limit(tmp_path):
    write_pair(tmp_path, "a.png", caption=None)
    remedy = "put `name.txt` beside `name.jpg`, or metadata.jsonl .* or name the right data.caption_column"
    with pytest.raises(UserError, match=f"none of 1 items is usable: .*a.png: no caption.*{remedy}"):
        load(tmp_path, 1.0)
    write_pair(tmp_path, "a.png").write_bytes(b"noise")
    with pytest.raises(UserError) as caught:
        load(tmp_path, 1.0)
    assert str(caught.value).endswith("TIFF or AVIF image")


@pytest.mark.parametrize("source", ["folder", "cache"])
def test_a_store_is_no_folder(source):
    with pytest.raises(UserError, match=f"data.path 's3://bucket/x': data.source={source} reads from disk: copy it"):
        load_user_data(DataConfig(source=source, path="s3://bucket/x"), print)


def test_bad_share_at_the_limit_passes_and_above_it_is_refused(tmp_path):
    for i in range(19):
        write_pair(tmp_path, f"good{i:02d}.png")
    write_pair(tmp_path, "bad0.png", caption=None)
    assert len(load(tmp_path, 0.05).skipped) == 1  # 1 of 20 is the limit exactly
    for i in range(1, 7):
        write_pair(tmp_path, f"bad{i}.png", caption="")
    with pytest.raises(UserError) as caught:
        load(tmp_path, 0.05)
    message = str(caught.value)
    assert "7 of 26 items (26.9%)" in message and "data.max_bad_fraction allows 5.0%" in message
    assert "bad0.png: no caption" in message and "bad4.png" in message and "and 2 more" in message
    assert "\n" not in message
    assert [f"bad{i}.png" in caught.value.__notes__[0] for i in range(7)] == [True] * 7


def test_a_folder_that_cannot_be_read_whole_is_refused(tmp_path, locked_folder):
    write_pair(tmp_path, "a.png")
    locked_folder(tmp_path / ".hidden")
    assert load(tmp_path, 0.0).keys == ["a.png"]
    locked_folder(tmp_path / "sub")
    remedy = "give access to it, or name a folder without it"
    with pytest.raises(UserError, match=f"folder .*/sub: Permission denied, so that .* missing; {remedy}"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_metadata_that_is_a_pipe_is_named(tmp_path, name):
    write_pair(tmp_path, "a.png")
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=f"data.path: .*{name}: not a file but a pipe, a socket or a device"):
        load(tmp_path)
