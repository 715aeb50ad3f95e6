"""How often 95% intervals of a preference hold it, in 1,000 simulated studies: ours (`study/analysis/crossed.py`)
beside votes taken for independent (the reference), bootstraps, and the two-way cluster-robust interval.

    python -m benchmarks.study.intervals
"""

import time

import numpy as np
from numpy.typing import NDArray

from e2ed2.evaluation.metrics.intervals import t_quantile, wilson_interval
from e2ed2.study.analysis.crossed import share_interval
from e2ed2.study.analysis.simulate import Population, draw_scores

STUDIES, REPLICATES = 1000, 500
SIZES = ((10, 300), (10, 40), (5, 40), (3, 40), (30, 20))
POPULATIONS = {
    "raters and prompts differ": Population({"first": 0.3, "second": 0.0}),
    "raters differ much": Population({"first": 0.5, "second": 0.0}, rater_spread=0.6, prompt_spread=0.2),
    "a clear winner": Population({"first": 1.2, "second": 0.0}),
    "neither differs": Population({"first": 0.3, "second": 0.0}, rater_spread=0.0, prompt_spread=0.0),
}
Limits = tuple[float, float]
generator = np.random.default_rng(0)


def ours(values: NDArray[np.float64]) -> Limits:
    rater, prompt = np.divmod(np.arange(values.size), values.shape[1])
    limits = share_interval(values.ravel(), rater, prompt).limits
    assert limits is not None
    return limits


def independent(values: NDArray[np.float64]) -> Limits:
    mean, variance = float(values.mean()), float(values.var()) / values.size
    return wilson_interval(mean, mean * (1 - mean) / variance, values.size - 1)


def weights(count: int, is_drawn: bool) -> NDArray[np.float64]:
    """How often each of `count` is drawn, [REPLICATES, count]; once each where none is."""
    if not is_drawn:
        return np.ones((REPLICATES, count))
    return generator.multinomial(count, np.full(count, 1 / count), REPLICATES).astype(np.float64)


def bootstrap(values: NDArray[np.float64], of_raters: bool, of_prompts: bool) -> Limits:
    """Percentiles; over both together it is the pigeonhole bootstrap (Owen 2007)."""
    raters, prompts = values.shape
    sums = np.einsum("br,rp,bp->b", weights(raters, of_raters), values, weights(prompts, of_prompts), optimize=True)
    low, high = np.quantile(sums / values.size, (0.025, 0.975))
    return float(low), float(high)


def cluster_robust(values: NDArray[np.float64]) -> Limits:
    """Two-way, Student's t of the smaller number of clusters less one (Cameron, Gelbach & Miller 2011)."""
    rest = (values - values.mean()) / values.size
    raters, prompts = values.shape
    of_raters = (rest.sum(axis=1) ** 2).sum() * raters / (raters - 1)
    of_prompts = (rest.sum(axis=0) ** 2).sum() * prompts / (prompts - 1)
    variance = max(of_raters + of_prompts - (rest**2).sum(), 0.0)
    half = t_quantile(min(raters, prompts) - 1) * variance**0.5
    return float(values.mean()) - half, float(values.mean()) + half


METHODS = {
    "ours": ours,
    "votes independent": independent,
    "bootstrap, raters": lambda values: bootstrap(values, True, False),
    "bootstrap, prompts": lambda values: bootstrap(values, False, True),
    "bootstrap, both": lambda values: bootstrap(values, True, True),
    "cluster-robust": cluster_robust,
}
print(f"studies of {STUDIES:,} whose 95% interval holds the preference (and its mean width, in points of percent)")
print("| raters x prompts | " + " | ".join(METHODS) + " |\n|---" + "|---:" * len(METHODS) + "|")
started = time.perf_counter()
for title, population in POPULATIONS.items():
    win, tie, _ = population.shares("first", "second")
    for raters, prompts in SIZES:
        found = {name: [] for name in METHODS}
        for _ in range(STUDIES):
            scores, _, _ = draw_scores(population, raters, prompts, generator)
            for name, method in METHODS.items():
                found[name].append(method((scores.reshape(raters, prompts) + 1) / 2))
        cells = []
        for limits in found.values():
            low, high = np.array(limits).T
            held = int(((low <= win + tie / 2) & (win + tie / 2 <= high)).sum())
            cells.append(f"{held} ({100 * (high - low).mean():.1f})")
        print(f"| {title}, {raters} x {prompts} | " + " | ".join(cells) + " |", flush=True)
print(f"{time.perf_counter() - started:.0f} s")
