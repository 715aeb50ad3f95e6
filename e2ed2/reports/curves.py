"""Curves of a run over its updates: every loss term, the learning rate, what was measured meanwhile."""

import re
from pathlib import Path
from typing import Any

from markupsafe import Markup

import e2ed2.emoji.metrics  # noqa: F401 - how to read its metrics
from e2ed2.evaluation.metrics.table import metric_of
from e2ed2.system.drawing.charts import band_chart, line_chart, lines_chart
from e2ed2.system.drawing.figures import figure
from e2ed2.system.errors import UserError
from e2ed2.training.validation import best_so_far, deciding_metric, read_evaluations

MAX_LINES = 12  # of a chart
OTHER_COLUMNS = {
    "global_step", "images_seen", "images_per_second", "peak_memory_bytes", "lr", "grad_norm", "discriminator_won_for",
}  # fmt: skip
TITLES = {"grad_norm": "gradient norm before clipping", "lr": "learning rate", "total": "loss, weighted sum"}


def curves_of(rows: list[dict[str, float]]) -> list[dict[str, Any]]:
    """A chart for each loss term, the gradient norm and the learning rate."""
    if len(rows) < 2:
        return []
    curves = []
    for name in [*terms_of(rows), "grad_norm", "lr"]:
        points = [(row["global_step"], row[name]) for row in rows if row.get(name) is not None]
        if len(points) < 2:
            continue
        xs, ys = zip(*points, strict=True)
        title = TITLES.get(name, name.replace("_", " "))
        text = f"{title} over {len(xs)} logged steps, from {figure(ys[0])} to {figure(ys[-1])}"
        lines = by_start(name, rows)
        chart = lines_chart(lines, text) if lines else line_chart(list(xs), list(ys), text, is_noisy=name != "lr")
        curves.append({"title": title, "svg": Markup(chart), "by_start": bool(lines)})
    return curves


def terms_of(rows: list[dict[str, float]]) -> list[str]:
    """The names of what was trained on, the weighted sum too where it is another curve."""
    terms = [name for name in rows[-1] if name not in OTHER_COLUMNS and "/" not in name] if rows else []
    if len(terms) == 2 and all(row.get(terms[0]) == row.get("total") for row in rows):
        terms.remove("total")  # one term of weight 1 is the total
    return terms


def by_start(term: str, rows: list[dict[str, float]]) -> dict[str, tuple[list[float], list[float]]]:
    """A term's (steps, values) by where chains began, from noise to nearly clean: `2 of 4` is the second of four steps.

    Where there are many starts, neighbours share a line. A run that does not draw where its chains begin has none.
    """
    found: dict[tuple[int, int], list[tuple[float, float]]] = {}
    prefix = f"{term}/"
    for row in rows:
        for name, value in row.items():
            if not name.startswith(prefix) or value is None:
                continue
            if match := re.fullmatch(r"from_(\d+)_of_(\d+)", name.removeprefix(prefix)):
                found.setdefault((int(match[1]), int(match[2])), []).append((row["global_step"], value))
    starts = sorted(found, key=lambda start: ((start[0] - 1) / max(start[1], 1), start[1]))
    together = -(-len(starts) // MAX_LINES)
    lines = {}
    for first in range(0, len(starts), together or 1):
        group = starts[first : first + together]
        ends = [f"{start} of {steps}" for start, steps in dict.fromkeys((group[0], group[-1]))]
        xs, ys = zip(*sorted(point for start in group for point in found[start]), strict=True)
        lines[" to ".join(ends)] = list(xs), list(ys)
    return lines


def evaluations_of(run_dir: Path) -> tuple[dict[int, dict[str, Any]], list[str]]:
    """`read_evaluations`, and what is wrong with them: where one is damaged there are none."""
    try:
        return read_evaluations(run_dir), []
    except UserError as error:
        return {}, [str(error)]


def measured(found: dict[int, dict[str, Any]], asked: dict[str, Any]) -> dict[str, Any] | None:
    """The evaluations made while training, a chart for each metric; None where there are fewer than two."""
    if len(found) < 2:
        return None
    steps, results = list(found), list(found.values())
    metric = deciding_metric(asked.get("metric"), results[0]["metrics"])
    best = best_so_far(found, metric)[steps[-1]]
    curves = []
    for name in results[0]["metrics"]:
        estimates = [result["metrics"][name] for result in results]
        rows = [(e["value"], e["low"], e["high"]) for e in estimates]
        title = f"{metric_of(name).title} ({metric_of(name).better})"
        text = f"{title} after {len(steps)} counts of updates, from {figure(rows[0][0])} to {figure(rows[-1][0])}"
        chart = band_chart([float(step) for step in steps], rows, steps.index(best), text)
        curves.append({"title": title, "svg": Markup(chart)})
    about = {key: results[0][key] for key in ("protocol", "num_images", "nfe")}
    return {**about, "metric": metric_of(metric).title, "best": best, "curves": curves}
