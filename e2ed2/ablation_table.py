"""The table and the figure of a suite: mean and interval over its seeds, costs relative to its baseline."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from e2ed2.charts import figure, interval_chart
from e2ed2.evaluation.intervals import t_quantile
from e2ed2.evaluation.table import central, half_width, metric_of

COLUMNS = ("kernel_distance", "alignment", "precision", "recall", "coverage", "spread", "sharpness")
FIGURE_COLUMNS = ("kernel_distance", "recall", "sharpness", "spread")

Results = Mapping[str, Sequence[Mapping[int, dict[str, Any]]]]  # row -> of each seed, number of steps -> evaluation


def over_seeds(estimates: list[dict[str, float]]) -> dict[str, float]:
    """Mean over seeds with the 95% interval of Student's t; a single seed keeps its evaluation's own interval."""
    if len(estimates) == 1:
        return estimates[0]
    values = [estimate["value"] for estimate in estimates]
    half = t_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return {"value": fmean(values), "low": fmean(values) - half, "high": fmean(values) + half}


def table(
    steps: Sequence[int], baseline: str | None, results: Results, costs: Mapping[str, tuple[float, float]]
) -> str:
    """Markdown: a line per step count and row, so far measured.

    Args:
        steps: the order of their lines. baseline: the row that costs are relative to.
        costs: row -> (seconds per image, bytes at most) of its training.
    """
    heads = ["row", "NFE", "images x seeds", *(metric_of(name).short for name in COLUMNS)]
    relative = baseline in costs
    lines = ["| " + " | ".join([*heads, *(["time per image", "memory"] if relative else [])]) + " |"]
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
            if relative:
                cells += _relative(costs, row, str(baseline))
            lines.append("| " + " | ".join(cells) + " |")
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


def _relative(costs: Mapping[str, tuple[float, float]], row: str, baseline: str) -> list[str]:
    if row not in costs:
        return ["-", "-"]
    return [f"{mine / theirs:.2f}" for mine, theirs in zip(costs[row], costs[baseline], strict=True)]
