"""What verify reads, mangled: labelled images of every format, manifests alone, metadata alone, and key files."""

import io
import json
import random
import warnings

import pytest
from PIL import Image

from e2ed2.provenance import keys, verify
from e2ed2.provenance.keys import known_signers, signing_key
from e2ed2.provenance.label import full_label
from e2ed2.provenance.metadata import fields_of
from e2ed2.provenance.verify import in_words
from tests.mangle import mangled_bytes, mangled_values, share_taken
from tests.provenance.conftest import MADE, picture
from tests.provenance.test_verify import chunks, png_of


def looked_at(path):
    """As the command does: verified, told as JSON and in words."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing but one line is to be told
        finding = verify.verify(path)
    json.dumps(vars(finding)).encode()
    words = in_words(finding)
    assert all(letter.isprintable() for line in words.split("\n") for letter in line)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tiff", "avif", "bmp"])
def test_mangled_images(suffix, tmp_path):
    whole = io.BytesIO(full_label().png(picture(), MADE))
    if suffix != "png":
        out = io.BytesIO()
        with Image.open(whole) as image:
            options = {"xmp": image.info["xmp"]} if suffix in ("jpg", "webp", "avif") else {}
            image.save(out, Image.registered_extensions()[f".{suffix}"], **options)
        whole = out
    path = tmp_path / f"x.{suffix}"

    def damage(rng: random.Random) -> None:
        path.write_bytes(mangled_bytes(whole.getvalue(), rng))

    assert 0 < share_taken(damage, lambda: looked_at(path), 60) < 1


def test_mangled_manifests_in_whole_images(tmp_path, labelled):
    parts, path = chunks(labelled.read_bytes()), tmp_path / "x.png"

    def damage(rng: random.Random) -> None:
        path.write_bytes(png_of([(n, mangled_bytes(c, rng) if n == b"caBX" else c) for n, c in parts]))

    assert share_taken(damage, lambda: looked_at(path), 100) == 1, "an image is still an image"


def test_mangled_metadata_in_whole_images(tmp_path, labelled):
    parts, path = chunks(labelled.read_bytes()), tmp_path / "x.png"
    values = fields_of(MADE, with_prompt=True)

    def damage(rng: random.Random) -> None:
        if rng.random() < 0.5:
            mangled = {name: mangled_bytes(content, rng) for name, content in parts if name == b"iTXt"}
        else:
            mangled = {b"iTXt": b"e2ed2\0\0\0\0\0" + json.dumps(mangled_values(values, rng)).encode()}
        path.write_bytes(png_of([(n, mangled.get(n, c)) for n, c in parts]))

    assert 0 < share_taken(damage, lambda: looked_at(path), 100) <= 1


def test_mangled_keys(user):
    signing_key()
    whole = (user / keys.FILE).read_bytes()

    def damage(rng: random.Random) -> None:
        (user / keys.FILE).write_bytes(mangled_bytes(whole, rng))

    assert 0 < share_taken(damage, signing_key, 100) < 1
    assert 0 < share_taken(damage, known_signers, 100) < 1
