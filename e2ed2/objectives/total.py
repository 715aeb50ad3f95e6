"""The weighted sum of objectives; every term keeps its name and its unweighted value."""

from collections.abc import Mapping
from typing import Protocol, TypeVar

from torch import Tensor

S = TypeVar("S", contravariant=True)
X = TypeVar("X", contravariant=True)


class Term(Protocol[S, X]):
    """One loss: the m samples of each caption and the data, as latents or as features, to a scalar."""

    def __call__(self, samples: S, x0: X, /) -> Tensor: ...


def evaluate_terms(terms: Mapping[str, Term[S, X]], samples: S, x0: X) -> dict[str, Tensor]:
    """name -> unweighted value."""
    return {name: term(samples, x0) for name, term in terms.items()}


def total(values: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """sum of weight x value over the weighted names; other values are only logged, even if not finite.

    Raises:
        ValueError: no name has a weight, or a weighted name has no value.
    """
    missing = weights.keys() - values.keys()
    if not weights or missing:
        raise ValueError(f"weights {dict(weights)}: needs at least one term, each among {sorted(values)}")
    first, *rest = (weight * values[name] for name, weight in weights.items())
    return sum(rest, start=first)
