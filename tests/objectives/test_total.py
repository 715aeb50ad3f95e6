"""The weighted sum: names, unweighted values, and gradients that follow the weights."""

import pytest
import torch

from e2ed2.objectives.reconstruction import l1, l2
from e2ed2.objectives.total import evaluate_terms, total


def test_every_term_keeps_its_name_and_its_unweighted_value():
    samples, x0 = torch.tensor([[[1.0, 3.0]]]), torch.zeros(1, 2)
    values = evaluate_terms({"l1": l1, "l2": l2}, samples, x0)
    assert {name: value.item() for name, value in values.items()} == {"l1": 2.0, "l2": 5.0}


def test_total_is_the_weighted_sum_and_its_gradient():
    a, b = torch.tensor(2.0, requires_grad=True), torch.tensor(5.0, requires_grad=True)
    value = total({"l1": a, "l2": b}, {"l1": 0.5, "l2": 3.0})
    value.backward()
    assert value.item() == 16.0 and (a.grad.item(), b.grad.item()) == (0.5, 3.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_without_a_weight_is_only_logged(bad):
    watched, trained = torch.tensor(bad, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    value = total({"watched": watched, "l1": trained}, {"l1": 1.5})
    value.backward()
    assert value.item() == 3.0 and watched.grad is None


@pytest.mark.parametrize("weights", [{}, {"lpips": 1.0}, {"l1": 1.0, "lpips": 1.0}])
def test_weights_must_name_terms_that_exist(weights):
    with pytest.raises(ValueError, match=r"needs at least one term, each among \['l1', 'l2'\]"):
        total({"l2": torch.tensor(1.0), "l1": torch.tensor(1.0)}, weights)
