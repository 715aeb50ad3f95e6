"""The weighted sum of objectives; every term keeps its name and its unweighted value."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import Tensor

S = TypeVar("S")
X = TypeVar("X")
Term = Callable[[S, X], Tensor]  # the m samples of each caption and the data, as latents or as features -> scalar


def evaluate_terms(terms: Mapping[str, Term[S, X]], samples: S, x0: X) -> dict[str, Tensor]:
    """name -> unweighted value."""
    return {name: term(samples, x0) for name, term in terms.items()}


def total(values: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """sum of weight x value over the weighted names; other values do not count.

    Raises:
        ValueError: no name has a weight, or a weighted name has no value.
    """
    missing = weights.keys() - values.keys()
    if not weights or missing:
        raise ValueError(f"weights {dict(weights)}: needs at least one term, each among {sorted(values)}")
    first, *rest = (weight * values[name] for name, weight in weights.items())
    return sum(rest, start=first)
