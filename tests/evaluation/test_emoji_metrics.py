"""Spread, sharpness and style by hand; the whole set of metrics on images whose order is known."""

import pytest
import torch
import torch.nn.functional as F

from e2ed2.evaluation.metrics import emoji_metrics as met
from e2ed2.system.errors import UserError


def constant(*levels):
    """One 8x8 image per grey level."""
    return torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).contiguous()


def test_spread_is_the_mean_over_captions_of_the_sample_deviation():
    images = constant(0, 255, 100, 100, 7)  # deviations with n - 1: sqrt(1/2), 0; a single sample has none
    estimate = met.spread(images, ["a", "a", "b", "b", "c"])
    assert estimate.value == pytest.approx(0.5**0.5 / 2, rel=1e-6)
    assert met.spread(images, ["b", "a", "c", "b", "a"]).value == pytest.approx(
        ((100 / 255) / 2**0.5 + (248 / 255) / 2**0.5) / 2, rel=1e-6
    )


def test_spread_is_absent_with_one_sample_per_caption():
    assert met.spread(constant(1, 2, 3), ["a", "b", "c"]) is None


def test_laplacian_energy_by_hand():
    """A white dot on black: the stencil answers -4 at the dot and 1 at its four neighbours, on 6x6 inner pixels."""
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    image[:, :, 3, 4] = 255
    assert met.laplacian_energy(image).item() == pytest.approx((16 + 4) / 36, rel=1e-5)
    image[:, 1:, 3, 4] = 0  # red alone: 0.299 of the luminance
    assert met.laplacian_energy(image).item() == pytest.approx(0.299**2 * 20 / 36, rel=1e-5)


def test_sharpness_is_relative_to_the_reference():
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (20, 3, 16, 16), dtype=torch.uint8, generator=generator)
    reference = met.ReferenceSet(real, torch.zeros(20, 4))
    prompts = [f"caption {i}" for i in range(20)]
    assert met.sharpness(real, prompts, reference).value == 1.0
    blurred = F.avg_pool2d(F.pad(real.float(), (1, 1, 1, 1), mode="replicate"), 3, 1).round().byte()
    assert met.sharpness(blurred, prompts, reference).high < 0.5


def test_style_is_that_of_the_nearest_reference_direction():
    real = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    styles = ["flat", "line", "flat"]
    samples = torch.tensor([[9.0, 1.0], [1.0, 2.0], [-3.0, -1.0], [2.0, 1.0]])
    assert met.nearest_styles(samples, real, styles) == ["flat", "line", "flat", "flat"]
    shares = met.style_shares(samples, real, styles, ["a", "a", "b", "b"])
    assert {name: share.value for name, share in shares.items()} == {"flat": 0.75, "line": 0.25}
    assert shares["flat"].low < 0.75 < shares["flat"].high


@pytest.fixture
def real_set():
    """A reference of 40 random blobs, and features that a random projection gives; no network needed."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(80, 3, 4, 4, generator=generator)
    images = (F.interpolate(coarse, 32, mode="bicubic").clamp(0, 1) * 255).byte()
    project = torch.randn(3 * 32 * 32, 24, generator=generator)
    return images, lambda x: (x.flatten(1).float() / 255 - 0.5) @ project / 5


@pytest.fixture(autouse=True)
def no_text_encoder(monkeypatch):
    monkeypatch.setattr(met, "alignment", lambda features, prompts: met.mean_estimate(features[:, 0], prompts))


def test_every_metric_and_its_direction(real_set):
    images, measure = real_set
    reference = met.ReferenceSet(images[:40], measure(images[:40]))
    prompts = [f"caption {i // 2}" for i in range(40)]
    good = met.evaluate_images(images[40:], prompts, reference, measure(images[40:]))
    grey = (images[40:].float() * 0.2 + 100).byte()
    poor = met.evaluate_images(grey, prompts, reference, measure(grey))
    assert list(good) == [
        "kernel_distance", "frechet_distance", "alignment", "precision", "recall", "coverage", "spread", "sharpness",
    ]  # fmt: skip
    for estimate in [*good.values(), *poor.values()]:
        assert estimate.low <= estimate.value <= estimate.high
        assert all(type(v) is float for v in estimate.to_json().values())
    for name in ("kernel_distance", "frechet_distance"):
        assert good[name].value < poor[name].value
    for name in ("recall", "spread", "sharpness"):  # coverage forgives a huddle in the middle
        assert good[name].value > poor[name].value


def test_one_sample_per_caption_has_no_spread(real_set):
    images, measure = real_set
    reference = met.ReferenceSet(images[:40], measure(images[:40]))
    prompts = [f"caption {i}" for i in range(40)]
    assert "spread" not in met.evaluate_images(images[40:], prompts, reference, measure(images[40:]))


def test_what_the_user_can_get_wrong(real_set):
    images, measure = real_set
    features = measure(images)
    reference = met.ReferenceSet(images[:40], features[:40])
    prompts = [f"caption {i}" for i in range(20)]
    with pytest.raises(UserError, match="19 images but 20 prompts"):
        met.evaluate_images(images[:19], prompts, reference, features[:19])
    with pytest.raises(UserError, match="9 images: the metrics need at least 10"):
        met.evaluate_images(images[:9], prompts[:9], reference, features[:9])
    with pytest.raises(UserError, match="every image has the prompt 'apple'"):
        met.evaluate_images(images[:20], ["apple"] * 20, reference, features[:20])
    with pytest.raises(UserError, match=r"\[3, 16, 16\], the reference \[3, 32, 32\]"):
        met.evaluate_images(images[:20, :, :16, :16], prompts, reference, features[:20])
    features[3] = torch.nan
    with pytest.raises(UserError, match="image 3 are not finite"):
        met.evaluate_images(images[:20], prompts, reference, features[:20])
