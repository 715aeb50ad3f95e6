"""Optimal transport: the best of all permutations, and what it leaves as it was."""

from itertools import permutations

import pytest
import torch

from e2ed2.coupling import optimal_transport


def pair(size, *shape, seed=0):
    return torch.randn(2, size, *shape, generator=torch.Generator().manual_seed(seed))


def cost(noise, x0):
    return (noise - x0).square().sum().item()


@pytest.mark.parametrize("seed", range(5))
def test_the_assignment_is_the_cheapest_of_all_permutations(seed):
    noise, x0 = pair(6, 2, 3, seed=seed)
    cheapest = min(cost(noise[list(order)], x0) for order in permutations(range(6)))
    assert cost(optimal_transport(noise, x0), x0) == pytest.approx(cheapest)


@pytest.mark.parametrize("group_size", [None, 1, 4, 16])
def test_the_cost_never_rises_and_the_noises_stay_the_same(group_size):
    for seed in range(10):
        noise, x0 = pair(16, 4, 4, 4, seed=seed)
        permuted = optimal_transport(noise, x0, group_size)
        assert cost(permuted, x0) <= cost(noise, x0) + 1e-3
        for before, after in zip(noise.split(group_size or 16), permuted.split(group_size or 16), strict=True):
            assert sorted(before.flatten(1).tolist()) == sorted(after.flatten(1).tolist())


def test_known_pairs_are_found_within_each_group_alone():
    _, x0 = pair(8, 3)
    shuffled = x0[torch.tensor([2, 0, 3, 1, 7, 6, 5, 4])]
    assert torch.equal(optimal_transport(shuffled, x0, 4), x0)
    assert not torch.equal(optimal_transport(shuffled.flip(0), x0, 4), x0)
    assert torch.equal(optimal_transport(shuffled.flip(0), x0), x0)


@pytest.mark.parametrize(("group_size", "mean"), [(2, 0.0), (None, 0.663)])
def test_the_noise_of_a_caption_stays_standard_normal_only_within_captions(group_size, mean):
    """Two captions with images near 3 and near -3: assigned over both, the first gets the two largest of four normals.

    Their expectations are 1.029 and 0.297.
    """
    offset = torch.tensor([3.0, 3.0, -3.0, -3.0])[:, None]
    drawn = []
    for seed in range(4000):
        noise, x0 = pair(4, 1, seed=seed)
        drawn.append(optimal_transport(noise, offset + 0.1 * x0, group_size)[:2, 0])
    drawn = torch.cat(drawn)
    assert drawn.mean().item() == pytest.approx(mean, abs=0.03)
    assert (drawn.std().item() == pytest.approx(1, abs=0.03)) == (group_size == 2)
