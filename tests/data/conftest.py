"""Small captioned images, and the ways in which they come."""

import errno
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("E2ED2_CACHE", str(folder))
    return folder


@pytest.fixture
def locked_folder(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make a folder that cannot be listed, not even by root."""
    scandir = os.scandir

    def lock(folder: Path) -> None:
        folder.mkdir()

        def refusing(path: str) -> Any:
            if Path(path) == folder:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refusing)

    return lock


def png(shade: int, size: tuple[int, int] = (16, 16)) -> bytes:
    """A grey picture, width x height."""
    file = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


def write_tar(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    """key -> extension -> content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, files in samples.items():
            for extension, content in files.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def write_shards(folder: Path, num_shards: int = 3, num_items: int = 5) -> Path:
    """Shards of grey pictures, `1-3` the third item of the second shard, its shade 13, every fifth one wide."""
    for shard in range(num_shards):
        samples = {}
        for i in range(num_items):
            size = (32, 16) if i % 5 == 4 else (16, 16)
            samples[f"{shard}-{i}"] = {"png": png(10 * shard + i, size), "txt": f"item {shard}-{i}".encode()}
        write_tar(folder / f"{shard:05d}.tar", samples)
    return folder
