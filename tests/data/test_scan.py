"""What is decoded once, what is kept of it, and what changes meanwhile."""

import errno
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from e2ed2.data import decoding
from e2ed2.data.image_files import decode_image
from e2ed2.data.source_set import SourceSet
from e2ed2.data.sources.folder import FolderSource
from e2ed2.system.errors import UserError
from tests.data.test_folder import GREEN, write_pair


def test_a_file_that_could_not_be_read_is_tried_again(tmp_path, monkeypatch):
    for name in ("a.png", "b.png", "c.png"):
        write_pair(tmp_path, name)
    (tmp_path / "c.png").write_bytes(b"noise")
    read_bytes, read = Path.read_bytes, []

    def failing(path: Path) -> bytes:
        read.append(path.name)
        if path.name == "b.png" and fails:
            raise OSError(errno.EIO, "Input/output error")
        return read_bytes(path)

    def scan() -> tuple[list[str], list[str]]:
        read.clear()
        _, bad = decoding.scan(FolderSource(tmp_path), 1)
        return list(read), [f"{Path(item.path).name}: {item.reason}" for item in bad]

    monkeypatch.setattr(Path, "read_bytes", failing)
    noise = "c.png: not a PNG, JPEG, WebP, BMP, GIF, TIFF or AVIF image"
    fails = True
    for names in (["a.png", "b.png", "c.png"], ["b.png"]):
        assert scan() == (names, ["b.png: cannot be read (Input/output error)", noise])
    fails = False
    assert scan() == (["b.png"], [noise])
    assert scan() == ([], [noise])


def test_every_file_is_scanned_once_and_again_when_something_changes(tmp_path, monkeypatch):
    for name in ("a.png", "b.png", "c.png"):
        write_pair(tmp_path, name)
    write_pair(tmp_path, "d.png", caption=None)
    scanned, ticks = [], []

    def counting(file: Path, shapes: list[tuple[int, int]]):
        scanned.append(file.name)
        return decode_image(file, shapes)

    def scan() -> list[str]:
        scanned.clear()
        ticks.clear()
        source = FolderSource(tmp_path)
        SourceSet([("x", source)], [1.0], [(8, 8)], 0.25, 1, progress=lambda done, total: ticks.append((done, total)))
        return scanned

    monkeypatch.setattr(decoding, "decode_image", counting)
    assert scan() == ["a.png", "b.png", "c.png"] and ticks == [(3, 3)]
    assert scan() == [] and ticks == []
    os.utime(write_pair(tmp_path, "b.png", color=GREEN), (1, 1))
    assert len(scan()) == 3


KEPT = [b"", b"{}", b"[]", b"null", b"[" * 5000, b'[[8, "x"], [8, 8]]', b"[[0, 8], [8, 8]]", b"[[8, 8]]", b"[[8], 3]"]


@pytest.mark.parametrize("kept", KEPT)
def test_what_an_earlier_scan_left_is_of_its_kind_or_made_again(tmp_path, cache, kept):
    for name in ("a.png", "b.png"):
        write_pair(tmp_path / "set", name)
    (tmp_path / "set" / "b.png").write_bytes(b"noise")
    source = FolderSource(tmp_path / "set")
    right = decoding.scan(source, 1)
    assert right[0] == [(16, 16), None] and len(right[1]) == 1
    (file,) = (cache / "scans").iterdir()
    content = file.read_bytes()
    file.write_bytes(kept)
    assert decoding.scan(source, 1) == right and file.read_bytes() == content


def test_a_file_that_has_another_shape_by_now_still_fits_its_batch(tmp_path):
    for name in ("a.png", "b.png"):
        write_pair(tmp_path, name)
    data = SourceSet([("x", FolderSource(tmp_path))], [1.0], [(8, 8), (4, 16)], 0.0, 1)
    Image.new("RGB", (64, 16), GREEN).save(tmp_path / "b.png")
    assert [picture.image.shape for picture in data.pictures(torch.arange(2))] == [(3, 8, 8)] * 2
    (tmp_path / "b.png").unlink()
    with pytest.raises(UserError, match="b.png: cannot be read .*; it was usable when training began: bring it back"):
        data.pictures(torch.arange(2))
