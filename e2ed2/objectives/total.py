"""The weighted sum of objectives; every term keeps its name and its unweighted value."""

from collections.abc import Callable, Mapping

from torch import Tensor

Term = Callable[[Tensor, Tensor], Tensor]


def evaluate_terms(terms: Mapping[str, Term], samples: Tensor, x0: Tensor) -> dict[str, Tensor]:
    """name -> unweighted value, for samples [m, B, ...] and data [B, ...]."""
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
