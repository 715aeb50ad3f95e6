"""Overlaps of neighbourhoods against loops and values by hand; how often their intervals hold the truth."""

import numpy as np
import pytest
import torch

from e2ed2.evaluation.metrics import neighbourhoods as near
from e2ed2.system.errors import UserError


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_overlaps_by_hand_on_a_line():
    """k = 1. Real 0, 1, 3 reach 1, 1, 2 far: [-1, 1], [0, 2], [1, 5]. Generated 0.5, 4, 9 reach 3.5, 3.5, 5."""
    real, generated = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.5], [4.0], [9.0]])
    assert near.precision(generated, real, k=1).value == pytest.approx(2 / 3)  # 9 is outside
    assert near.recall(generated, real, k=1).value == 1.0  # [-3, 4] holds all three
    assert near.coverage(generated, real, k=1).value == 1.0  # 0.5, 0.5 and 4
    far = torch.tensor([[4.0], [4.5], [20.0]])
    assert near.coverage(far, real, k=1).value == pytest.approx(1 / 3)  # only 3 has one within 2
    assert near.recall(far, real, k=1).value == 0.0  # 20 reaches back to 4.5 only; 4 and 4.5 reach 0.5


def test_overlaps_equal_brute_force(monkeypatch):
    monkeypatch.setattr(near, "ROW_BLOCK", 16)
    x, y, k = normal(40, 3, seed=15) * 1.3 + 0.5, normal(50, 3, seed=16), 5

    def radius(points, i):
        return sorted(float((points[i] - p).norm()) for j, p in enumerate(points) if j != i)[k - 1]

    def distance(a, b):
        return float((a - b).norm())

    real, fake = [radius(y, j) for j in range(50)], [radius(x, i) for i in range(40)]
    inside = [any(distance(a, b) <= r for b, r in zip(y, real, strict=True)) for a in x]
    recalled = [any(distance(a, b) <= r for a, r in zip(x, fake, strict=True)) for b in y]
    covered = [any(distance(a, b) <= r for a in x) for b, r in zip(y, real, strict=True)]
    assert near.precision(x, y).value == pytest.approx(np.mean(inside))
    assert near.recall(x, y).value == pytest.approx(np.mean(recalled))
    assert near.coverage(x, y).value == pytest.approx(np.mean(covered))


def test_density_by_hand_and_by_brute_force():
    """k = 1 on a line. Real 0, 1, 3 hold [-1, 1], [0, 2], [1, 5]: 0.5 lies in two, 4 in one, 9 in none."""
    real, generated = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.5], [4.0], [9.0]])
    assert near.density(generated, real, k=1).value == pytest.approx(1.0)
    x, y, k = normal(30, 3, seed=21), normal(40, 3, seed=22), 5
    radii = [sorted(float((y[i] - p).norm()) for j, p in enumerate(y) if j != i)[k - 1] for i in range(40)]
    inside = [float((a - b).norm()) <= r for a in x for b, r in zip(y, radii, strict=True)]
    assert near.density(x, y, k=k).value == pytest.approx(sum(inside) / (k * 30), rel=1e-9)


def test_authenticity_finds_the_copies():
    training = normal(50, 4, seed=23)
    samples = torch.cat([training[:3] + 1e-3, normal(17, 4, seed=24) + 9])
    assert near.authenticity(samples, training).value == pytest.approx(17 / 20)


def test_a_training_image_that_occurs_twice_can_be_copied_too():
    training = normal(50, 4, seed=23)
    training = torch.cat([training, training[:3], training[3:4] * (1 + 1e-6)])  # copies, one of them up to rounding
    samples = torch.cat([training[:4] + 1e-3, normal(16, 4, seed=24) + 9])
    assert near.authenticity(samples, training).value == pytest.approx(16 / 20)
    ratios, rows = near.nearest_training(samples[:4], training)
    others = [sorted((training[i] - training).norm(dim=1).tolist())[2] for i in range(4)]  # behind itself and its copy
    expected = [float((samples[i] - training[rows[i]]).norm()) / others[i] for i in range(4)]
    assert ratios.tolist() == pytest.approx(expected, rel=1e-5)
    assert near.authenticity(training[:2], training[:1].expand(3, -1), ["a", "b"]).value == 0.0, "all of them one image"


@pytest.mark.parametrize("metric", [near.precision, near.recall, near.density, near.coverage])
def test_neighbourhoods_need_twice_k_images(metric):
    with pytest.raises(UserError, match="has 9 images: this metric needs at least 10"):
        metric(normal(9, 3), normal(20, 3))


@pytest.mark.parametrize(("apart", "is_same"), [(5e-5, True), (3e-4, False)])
def test_images_that_differ_by_rounding_alone_are_one(apart, is_same):
    training = torch.cat([torch.eye(3, 4, dtype=torch.float64), torch.eye(1, 4, dtype=torch.float64) * (1 + apart)])
    ratios, _ = near.nearest_training(torch.tensor([[1.0, 0.1, 0, 0]] * 2), training)
    nearest = min(0.1, (0.1**2 + apart**2) ** 0.5)
    assert ratios[0].item() == pytest.approx(nearest / (2**0.5 if is_same else apart), rel=1e-3)


def pair_of_sets(seed: int, side: float):
    """Samples of 60 captions, two each, beside 120 real ones, in four dimensions."""
    captions = normal(60, 4, seed=3 * seed).repeat_interleave(2, 0)
    samples = side * (0.8 * captions + 0.6 * normal(120, 4, seed=3 * seed + 1)) + 0.2
    return samples, normal(120, 4, seed=3 * seed + 2), [i // 2 for i in range(120)]


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "side"), [
    (near.recall, 0.4), (near.recall, 0.7), (near.coverage, 0.4), (near.coverage, 0.6), (near.precision, 1.5),
    (near.density, 1.5),
])  # fmt: skip
def test_intervals_hold_what_the_figure_is_on_average(metric, side):
    """Over samples and real images together; given the samples, recall's would hold it in 81 of 100 draws."""
    found = []
    for draw in range(600):
        x, y, captions = pair_of_sets(draw, side)
        found.append(metric(x, y, captions))
    mean = np.mean([estimate.value for estimate in found])
    assert 0.925 <= np.mean([estimate.low <= mean <= estimate.high for estimate in found]) <= 0.98
