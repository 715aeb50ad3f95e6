"""The mark: what it is read as, how sure a find is, and that it does not show."""

import itertools
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from e2ed2.models.folders.card import LABELS
from e2ed2.provenance import rivagan, watermark
from e2ed2.provenance.watermark import LEAST_SIDE, chance_of, find_mark, mark
from e2ed2.system.errors import UserError
from tests.provenance.conftest import picture

CHANGE = [0.0159836, -0.0084842, 0.0134330]
READ = [-5.8959002, -18.7537956, -19.7204590, 2.3520956]


def test_the_networks_compute_what_the_onnx_files_of_the_package_do():
    """Values of `rivagan_encoder.onnx` and `rivagan_decoder.onnx` by onnxruntime 1.32, of the same input."""
    pixels = torch.linspace(-1, 1, 3 * 24 * 20).reshape(3, 24, 20).roll(7, 1)[None]
    network = rivagan.load_rivagan()
    with torch.inference_mode():
        change = network.change(pixels, torch.arange(32) % 2)
        read = network.read(pixels)
    torch.testing.assert_close(change[0, :, 3, 4], torch.tensor(CHANGE), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(read[0, :4], torch.tensor(READ), atol=1e-3, rtol=1e-4)


def test_a_chance_is_the_share_of_sign_patterns_that_agree_as_well():
    """Every one of the 2^5 patterns, counted: the signed-rank sum of those that are at least as large."""
    agreement = torch.tensor([0.1, -0.2, 0.3, 0.4, 0.5])
    sums = [sum(rank for rank, sign in enumerate(signs, 1) if sign) for signs in itertools.product((0, 1), repeat=5)]
    assert chance_of(agreement) == sum(total >= 15 - 2 for total in sums) / 32
    assert chance_of(torch.ones(32).cumsum(0)) == 2.0**-32
    assert chance_of(-torch.ones(32).cumsum(0)) == 1


def test_a_dim_bit_weighs_less_than_a_clear_one():
    clear = torch.arange(1.0, 33)
    dim_wrong, clear_wrong = clear.clone(), clear.clone()
    dim_wrong[:6] *= -1
    clear_wrong[-6:] *= -1
    assert chance_of(dim_wrong) < watermark.FALSE_ALARM < chance_of(clear_wrong)


@pytest.mark.parametrize("size", [(256, 256), (300, 400)])
def test_a_mark_does_not_show_and_is_found(size):
    image = picture(*size)
    marked = mark(image)
    difference = np.abs(np.array(marked, int) - np.array(image, int))
    assert 0 < difference.max() <= 3, "of 255 grey levels"
    found = find_mark(marked)
    assert found is not None and found.method == "rivagan" and found.chance < 1e-4 and found.matched >= 26
    assert find_mark(image) is None


def test_small_images_are_left_alone():
    small = picture(LEAST_SIDE - 1, 400)
    assert mark(small) is small and find_mark(small) is None
    assert f"from {LEAST_SIDE} pixels a side" in LABELS, "the card says so"


def test_damaged_weights_are_one_line(tmp_path, monkeypatch):
    path = tmp_path / "rivagan.safetensors"
    save_file({"weight": torch.zeros(1)}, path)
    monkeypatch.setattr(rivagan, "WEIGHTS", path)
    with pytest.raises(UserError, match=r"rivagan.safetensors: missing or damaged .*; reinstall e2ed2"):
        rivagan.load_rivagan.__wrapped__()


class FakeTrustMark:
    """Stands in for the package: its calls and results, without its weights, which it fetches from its maker."""

    Encoding = types.SimpleNamespace(BCH_5=1)
    texts: dict[bytes, str] = {}

    def __init__(self, verbose, model_type, encoding_type, loadRemover):
        assert (verbose, model_type, encoding_type, loadRemover) == (False, "Q", 1, False)
        self.encoder = self.decoder = object()
        print("Fetching model file (once only)")

    def encode(self, cover, secret, MODE):
        assert MODE == "binary" and len(secret) == 61 and set(secret) <= {"0", "1"}
        marked = Image.eval(cover, lambda level: min(level + 1, 255))
        self.texts[marked.tobytes()] = secret
        return marked

    def decode(self, stego, MODE):
        secret = self.texts.get(stego.tobytes())
        return (secret + "000", True, 1) if secret else ("", False, -1)


@pytest.fixture
def trustmark(monkeypatch):
    module = types.ModuleType("trustmark")
    module.TrustMark, module.__spec__ = FakeTrustMark, object()
    monkeypatch.setitem(sys.modules, "trustmark", module)
    watermark._trustmark.cache_clear()
    yield module
    watermark._trustmark.cache_clear()


def test_trustmark_marks_where_it_is_installed(trustmark, capsys):
    image = picture(256, 256)
    found = find_mark(mark(image))
    assert found is not None and found.method == "trustmark" and 5e-23 < found.chance < 7e-23
    assert find_mark(image) is None
    assert capsys.readouterr().out == "", "what it prints is no result of ours"


def test_trustmark_whose_weights_cannot_be_had_is_one_line(trustmark, monkeypatch):
    monkeypatch.setattr(FakeTrustMark, "__init__", lambda self, **options: setattr(self, "encoder", None))
    with pytest.raises(UserError, match="trustmark: its weights cannot be fetched; uninstall it, or go online"):
        mark(picture(256, 256))
