"""Photographs of a Debian package: which are kept, what they are called, how the archive is read."""

import io
import tarfile
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import photographs


@pytest.mark.parametrize(
    "description, name",
    [
        ("A red apple.\nde.utf8=Ein roter Apfel.", "red apple"),
        ("A \u201cFuji\u201d apple.", "fuji apple"),
        ("A ginger 'root'.", "ginger root"),
        ("A plumber\u2019s wrench.", "plumber's wrench"),
        ("A ripe, red tomato!", "ripe red tomato"),
        ("A Seville orange, also called a bitter orange.", "seville orange"),
        ("An albino peahen (a female peafowl, or peacock).", "albino peahen"),
        ("Mercury\u2014the planet closest to the Sun.", "mercury"),
        ("A stethoscope lets your doctor listen.", "stethoscope"),
        ("Appooppan Thaadi", "appooppan thaadi"),
    ],
)
def test_a_name_is_what_a_description_names(description, name):
    assert photographs.name_of(PurePosixPath("some.png"), description) == name


def picture(num_colours):
    """A square of 60 pixels a side, colours drawn from so many, in the corner of a transparent one."""
    generator = np.random.default_rng(0)
    pixels = np.zeros((100, 80, 4), np.uint8)
    colours = generator.integers(0, 200, (num_colours, 3))
    pixels[5:65, 10:70, :3] = colours[generator.integers(0, num_colours, (60, 60))]
    pixels[5:65, 10:70, 3] = 255
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


def deb(path, files):
    """A Debian package of these files."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./usr/{photographs.FOLDER}{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data.getvalue()}
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in members.items():
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))
    return path


def test_a_package_and_the_folder_it_was_unpacked_to_give_the_same(tmp_path):
    photo, drawing = picture(10**6), picture(20)
    files = {"a/apple.png": photo, "a/apple.txt": b"A red apple.", "a/apple_mirror.png": photo, "a/pear.png": drawing,
             "a/pear.txt": b"A pear.", "cartoon/fig.png": photo, "cartoon/fig.txt": b"A fig."}  # fmt: skip
    for name, content in files.items():
        file = tmp_path / "folder" / "usr" / photographs.FOLDER / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (name, image), *others = photographs.photographs(deb(tmp_path / "some.deb", files))
    assert name == "red apple" and not others
    assert photographs.photographs(tmp_path / "folder")[0][1].equal(image)
    assert image.shape == (3, 64, 64) and image.dtype == torch.uint8
    inked = (image < 250).any(0)
    assert inked[2:62, 2:62].all() and not inked[:, :1].any() and not inked[-1:].any()


def test_what_is_no_package_is_said(tmp_path):
    (tmp_path / "x.deb").write_bytes(b"PK")
    with pytest.raises(SystemExit, match="no Debian package"):
        photographs.photographs(tmp_path / "x.deb")
