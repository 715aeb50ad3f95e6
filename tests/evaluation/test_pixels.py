"""Spread and sharpness by hand."""

import pytest
import torch
import torch.nn.functional as F

from e2ed2.evaluation.metrics import pixels
from e2ed2.system.errors import UserError


def constant(*levels):
    """One 8x8 image per grey level."""
    return torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).contiguous()


def test_spread_is_the_mean_over_captions_of_the_sample_deviation():
    images = constant(0, 255, 100, 100, 7, 107)  # deviations with n - 1: sqrt(1/2), 0, 100/255 sqrt(1/2)
    expected = (1 + 0 + 100 / 255) / 3 * 0.5**0.5
    for chunks in ([images], images.split(1), images.split(4)):  # however the samples are chunked
        assert pixels.spread(chunks, 2).value == pytest.approx(expected, rel=1e-6)


def test_laplacian_energy_by_hand():
    """A white dot on black: the stencil answers -4 at the dot and 1 at its four neighbours, on 6x6 inner pixels."""
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    image[:, :, 3, 4] = 255
    assert pixels.laplacian_energy(image).item() == pytest.approx((16 + 4) / 36, rel=1e-5)
    image[:, 1:, 3, 4] = 0  # red alone: 0.299 of the luminance
    assert pixels.laplacian_energy(image).item() == pytest.approx(0.299**2 * 20 / 36, rel=1e-5)


def test_sharpness_is_relative_to_the_reference():
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (20, 3, 16, 16), dtype=torch.uint8, generator=generator)
    prompts = [f"caption {i}" for i in range(20)]
    assert pixels.sharpness([real], real.split(6), prompts).value == 1.0
    blurred = F.avg_pool2d(F.pad(real.float(), (1, 1, 1, 1), mode="replicate"), 3, 1).round().byte()
    assert pixels.sharpness([blurred], [real], prompts).high < 0.5
    with pytest.raises(UserError, match="images of one size, some are 8x16 and 16x16"):
        pixels.sharpness([real[..., :8]], [real], prompts)
