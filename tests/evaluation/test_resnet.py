"""The second measuring network: as the file that its weights come from."""

import pytest
import torch

from e2ed2.evaluation.features import resnet
from e2ed2.system.errors import UserError

# Of noise and of a ramp, by the ONNX file in float32 (`weights/resnet/README.md`): sums, and the first six.
SUMS = [378.41, 251.78]
FIRST = [
    [0.1805, 0.0000, 0.0535, 0.0000, 1.2712, 0.5884],
    [0.0746, 0.4029, 0.6827, 0.0032, 0.3438, 0.4944],
]


def test_features_are_those_of_the_file():
    noise = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ramp = torch.arange(64).mul(4).to(torch.uint8).expand(3, 64, 64).contiguous()
    found = resnet.ResNetFeatures()([noise, ramp])
    assert found.shape == (2, 1024) and found.min() >= 0
    assert found.sum(1).tolist() == pytest.approx(SUMS, rel=2e-3)
    assert torch.allclose(found[:, :6], torch.tensor(FIRST), atol=5e-3)


def test_other_weights_are_refused(monkeypatch):
    monkeypatch.setattr(resnet, "WEIGHTS_SHA256", "0" * 64)
    with pytest.raises(UserError, match="sha256 is"):
        resnet.ResNetFeatures()
