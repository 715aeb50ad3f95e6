"""The official LPIPS behind our distance: a stand-in with the package's attributes, and the package itself."""

import pickle
import sys
import types

import pytest
import torch
from torch import nn

from e2ed2.models.losses.lpips_network import load_lpips_network
from e2ed2.objectives.perceptual import feature_distance, unit_maps
from e2ed2.system.errors import UserError


class Layer(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))
        nn.init.uniform_(self.model[-1].weight)  # the package's are not negative either


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 6, 3, stride=2)

    def forward(self, x):
        x = self.first(x).relu()
        return x, self.second(x).relu()


class StandIn(nn.Module):
    """`lpips.LPIPS` in small, its forward written after Eq. 1 of arXiv:1801.03924."""

    def __init__(self, net, verbose):
        super().__init__()
        assert net == "squeeze" and not verbose
        torch.manual_seed(0)
        self.chns, self.net = [8, 6], Backbone()
        self.scaling_layer = lambda x: (x + 0.1) / 0.45
        self.lins = nn.ModuleList(map(Layer, self.chns))

    def forward(self, a, b):
        total = 0
        both = (self.net(self.scaling_layer(x)) for x in (a, b))
        for f, g, layer in zip(*both, self.lins, strict=True):
            f, g = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in (f, g))
            total = total + layer.model((f - g).square()).mean((1, 2, 3))
        return total


def images(n):
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(n)) * 2 - 1


def test_the_distance_is_the_package_s_own_and_only_samples_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=StandIn))
    network = load_lpips_network("squeeze").train()
    network.reference.eval()
    a, b = images(3).requires_grad_(), images(4)[:3]
    ours = feature_distance(2)(unit_maps(network, a), unit_maps(network, b))
    torch.testing.assert_close(ours, network.reference(a, b))
    (gradient,) = torch.autograd.grad(ours.sum(), a)
    (expected,) = torch.autograd.grad(network.reference(a, b).sum(), a)
    torch.testing.assert_close(gradient, expected)
    assert network.channels == (8, 6) and not any(p.requires_grad for p in network.parameters())


@pytest.mark.download
@pytest.mark.parametrize("name", ["alex", "vgg", "squeeze"])
def test_the_distance_is_that_of_the_installed_package(name):
    pytest.importorskip("lpips")
    network = load_lpips_network(name)
    a, b = images(3), images(4)[:3]
    ours = feature_distance(2)(unit_maps(network, a), unit_maps(network, b))
    torch.testing.assert_close(ours, network.reference(a, b).flatten())


NEEDS_PACKAGES = r"perceptual_network: vgg needs the packages lpips and torchvision.*e2ed2\[lpips\].*bundled"


def test_without_the_package_there_is_a_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(UserError, match=NEEDS_PACKAGES):
        load_lpips_network("vgg")


def test_a_torchvision_of_another_build_is_not_taken_for_missing_weights(monkeypatch, tmp_path):
    """It fails as this file does, while lpips is imported."""
    (tmp_path / "lpips.py").write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    monkeypatch.delitem(sys.modules, "lpips", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=NEEDS_PACKAGES) as caught:
        load_lpips_network("vgg")
    assert "fits your torch (operator torchvision::nms does not exist)" in str(caught.value)


@pytest.mark.parametrize(
    "error", [OSError("no route"), RuntimeError("no route"), EOFError("no route"), pickle.UnpicklingError("no route")]
)
def test_without_its_weights_there_is_a_remedy(monkeypatch, error):
    """Offline, a wrong hash, and a damaged file in the cache."""

    def refuse(net, verbose):
        raise error

    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=refuse))
    with pytest.raises(UserError, match=r"vgg cannot load its weights \(no route\): connect once.*bundled"):
        load_lpips_network("vgg")
