"""Streamed statistics give the Frechet distance of the features themselves, however they come."""

import numpy as np
import pytest
import scipy.linalg
import torch

from e2ed2.evaluation.metrics import moments as mom
from e2ed2.evaluation.metrics.distribution import frechet_distance
from e2ed2.system.errors import UserError


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def sets():
    return normal(90, 8, seed=1) @ normal(8, 8, seed=2) + 3, normal(120, 8, seed=3) @ normal(8, 8, seed=4)


def test_frechet_of_moments_equals_the_matrix_square_root(sets):
    """As pytorch-fid and clean-fid compute it."""
    x, y = (s.numpy() for s in sets)
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(cov_x @ cov_y).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y - 2 * root)
    found = mom.frechet_from_moments(*(mom.moments_of(s) for s in sets)).value
    assert found == pytest.approx(expected, rel=1e-9)


def test_value_and_interval_are_those_of_the_features(sets):
    x, y = sets
    captions = [i // 2 for i in range(90)]
    streamed = mom.frechet_from_moments(mom.moments_of(x, captions), mom.moments_of(y))
    whole = frechet_distance(x, y, captions)
    assert list(streamed.to_json().values()) == pytest.approx(list(whole.to_json().values()), rel=1e-9)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_moments_do_not_depend_on_the_chunks(sets, monkeypatch, rows):
    whole = mom.moments_of(sets[0])
    monkeypatch.setattr(mom, "_ROWS", rows)
    chunked = mom.moments_of(sets[0])
    assert torch.allclose(chunked.outer, whole.outer, rtol=1e-12) and torch.equal(chunked.count, whole.count)


def test_other_widths_are_refused(sets):
    with pytest.raises(UserError, match="8 and 5 wide"):
        mom.frechet_from_moments(mom.moments_of(sets[0]), mom.moments_of(normal(20, 5)))
