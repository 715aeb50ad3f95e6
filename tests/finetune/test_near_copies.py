"""Copies of training images among samples: planted ones are found, other drawings are not taken for one."""

import pytest
import torch

from e2ed2.finetune.near_copies import near_copies


def flat(*values: int) -> torch.Tensor:
    """Images of one shade each."""
    return torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 64, 64)


def drawings(count: int, seed: int) -> torch.Tensor:
    """Smooth random pictures, uint8 [N, 3, 64, 64]."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(coarse, 64, mode="bicubic").clamp(0, 1) * 255).byte()


def blurred(images: torch.Tensor) -> torch.Tensor:
    """As an autoencoder or a model might copy them: the fine lost, every pixel a little off."""
    off = 6 * torch.randn(images.shape, generator=torch.Generator().manual_seed(9))
    return (torch.nn.functional.avg_pool2d(images.float(), 3, 1, 1) + off).clamp(0, 255).byte()


def test_planted_copies_are_found_and_other_drawings_are_not():
    training, others = drawings(24, seed=0), drawings(12, seed=1)
    planted = [3, 17, 3, 23]
    samples = torch.cat([others[:6], blurred(training[planted]), others[6:]])
    found = near_copies(samples, training, blurred(training[:16]))
    assert found.is_copy.tolist() == [False] * 6 + [True] * 4 + [False] * 6
    assert found.nearest[6:10].tolist() == planted
    assert (found.found, found.false) == (1, 0)


def test_the_line_is_drawn_by_hand():
    """Shades: copies are 10 from their own image, and 80 and more from the others."""
    found = near_copies(flat(5, 30, 195, 201), flat(0, 90, 200), flat(10, 100))
    assert found.threshold == pytest.approx(10 / 255, abs=1e-6)
    assert found.is_copy.tolist() == [True, False, True, True] and found.nearest.tolist() == [0, 0, 2, 2]
    assert (found.found, found.false) == (1, 0)


def test_images_too_alike_to_be_parted_are_told_in_figures():
    """The copy of the first is nearer to its twin (6) than to itself (10): one drawing in three is taken for a copy."""
    found = near_copies(flat(0), flat(0, 4, 200), flat(10, 14, 210))
    assert found.threshold == pytest.approx(10 / 255, abs=1e-6)
    assert (found.found, found.false) == (1, pytest.approx(1 / 3))
