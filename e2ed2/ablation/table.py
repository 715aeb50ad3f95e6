"""The table and the figure of a suite: mean and interval over its seeds, costs relative to its baseline."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from e2ed2.evaluation.metrics.intervals import t_quantile
from e2ed2.evaluation.metrics.table import metric_of
from e2ed2.system.drawing.charts import figure, interval_chart
from e2ed2.system.drawing.figures import central, half_width

COLUMNS = ("kernel_distance", "alignment", "precision", "recall", "coverage", "spread", "sharpness")
FIGURE_COLUMNS = ("kernel_distance", "recall", "sharpness", "spread")


class Cost(NamedTuple):
    """Of a row's training, over its seeds: mean time, memory at most, and the precisions it ran in."""

    seconds_per_image: float
    peak_memory_bytes: float
    precisions: set[str]


Results = Mapping[str, Sequence[Mapping[int, dict[str, Any]]]]  # row -> of each seed, number of steps -> evaluation


def over_seeds(estimates: list[dict[str, float]]) -> dict[str, float]:
    """Mean over seeds with the 95% interval of Student's t; a single seed keeps its evaluation's own interval."""
    if len(estimates) == 1:
        return estimates[0]
    values = [estimate["value"] for estimate in estimates]
    half = t_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return {"value": fmean(values), "low": fmean(values) - half, "high": fmean(values) + half}


def table(steps: Sequence[int], baseline: str | None, results: Results, costs: Mapping[str, Cost]) -> str:
    """Markdown: a line per step count and row, so far measured.

    Args:
        steps: the order of their lines. baseline: the row that costs are relative to.
        costs: row -> cost; only of those that ran in the baseline's precision is it said.
    """
    heads = ["row", "NFE", "images x seeds", *(metric_of(name).short for name in COLUMNS)]
    base = costs.get(str(baseline))
    unlike = [row for row, cost in costs.items() if base and cost.precisions != base.precisions]
    lines = ["| " + " | ".join([*heads, *(["time per image", "memory"] if base else [])]) + " |"]
    lines.append("|---" * (lines[0].count("|") - 1) + "|")
    for k in steps:
        for row, seeds in results.items():
            measured = [seed[k] for seed in seeds if k in seed]
            if not measured:
                continue
            cells = [row, str(measured[0]["nfe"]), f"{measured[0]['num_images']} x {len(measured)}"]
            for name in COLUMNS:
                estimates = [m["metrics"][name] for m in measured if name in m["metrics"]]
                whole = over_seeds(estimates) if estimates else None
                cells.append(f"{central(whole)} {half_width(whole)}" if whole else "-")
            if base:
                cells += ["-", "-"] if row not in costs or row in unlike else _relative(costs[row], base)
            lines.append("| " + " | ".join(cells) + " |")
    if unlike:
        lines += ["", f"No time and memory of {', '.join(unlike)}: trained in another precision than {baseline}."]
    return "\n".join(lines) + "\n"


def chart(steps: Sequence[int], baseline: str | None, results: Results) -> str:
    """SVG: an interval chart for each of `FIGURE_COLUMNS`, rows in the table's order, the baseline highlighted."""
    charts = []
    for name in FIGURE_COLUMNS:
        lines = []
        for k in steps:
            for row, seeds in results.items():
                measured = [seed[k] for seed in seeds if k in seed and name in seed[k]["metrics"]]
                if measured:
                    whole = over_seeds([m["metrics"][name] for m in measured])
                    label = f"{row}, {measured[0]['nfe']} NFE"
                    lines.append((label, whole["value"], whole["low"], whole["high"], row == baseline))
        if lines:
            metric = metric_of(name)
            charts.append((f"{metric.title} ({metric.better})", interval_chart(lines, metric.meaning)))
    return figure(charts)


def _relative(cost: Cost, base: Cost) -> list[str]:
    time, memory = cost.seconds_per_image / base.seconds_per_image, cost.peak_memory_bytes / base.peak_memory_bytes
    return [f"{time:.2f}", f"{memory:.2f}"]
