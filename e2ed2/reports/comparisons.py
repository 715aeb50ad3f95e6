"""Models measured side by side, as a run's page shows them: a table with charts, pictures, and what changed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from torch import Tensor

from e2ed2.data.batch import spread
from e2ed2.evaluation.evaluate import evaluate
from e2ed2.evaluation.metrics.table import is_better, metric_of
from e2ed2.reports.page import data_uri
from e2ed2.sampling.folder import read_images
from e2ed2.sampling.label import UNLABELLED, Label
from e2ed2.system.drawing.charts import interval_chart
from e2ed2.system.drawing.figures import figure
from e2ed2.system.drawing.pictures import png_bytes, to_picture
from e2ed2.system.processes import ALONE
from e2ed2.system.watch import Watch

Results = Sequence[dict[str, Any]]  # of `evaluation.results`, as plain values


def measured_row(
    name: str,
    model: str,
    protocol: str,
    *,
    steps: int | None,
    out: Path,
    watch: Watch,
    label: Label = UNLABELLED,
    num_images: int | None = None,
) -> dict[str, Any]:
    """A row of a table, measured by this process alone: as `evaluate`, under another name than the model's."""
    row = evaluate(model, protocol, steps=steps, num_images=num_images, out=out, share=ALONE, watch=watch, label=label)
    assert row is not None
    return {**row, "model": name, "measured": "here"}


def table_of(title: str, text: str, evaluations: Results, own: str, floors: Results = ()) -> dict[str, Any]:
    """A table of the page: rows under one protocol, the metrics they have, a chart for each.

    Args:
        own: the model whose rows are in colour. floors: rows of what no model can be expected to beat.
    """
    names = list(dict.fromkeys(name for row in [*evaluations, *floors] for name in row["metrics"]))
    return {
        "title": title, "text": text, "own": own, "evaluations": list(evaluations), "floors": list(floors),
        "metrics": [(name, metric_of(name)) for name in names], "dots": _dots(evaluations, floors, names, own),
    }  # fmt: skip


def changes_of(
    names: Sequence[str], before: Mapping[str, Any], after: Mapping[str, Any], where: str = ""
) -> list[dict[str, Any]]:
    """What a training did to a model, metric by metric, of two results; `where`: on which prompts, in words."""
    return [
        {
            "metric": metric_of(name),
            "before": before["metrics"][name],
            "after": after["metrics"][name],
            "verdict": verdict(name, before["metrics"][name], after["metrics"][name]),
            "where": where,
        }
        for name in names
    ]


def verdict(name: str, before: dict[str, float], after: dict[str, float]) -> str:
    """`better`, `worse`, or `no clear change` when the 95% intervals overlap."""
    if before["low"] <= after["high"] and after["low"] <= before["high"]:
        return "no clear change"
    if is_better(name, after["value"], before["value"]):
        return "better"
    return "worse" if is_better(name, before["value"], after["value"]) else "changed"


def _dots(evaluations: Results, floors: Results, names: Sequence[str], own: str) -> list[dict[str, Any]]:
    """A chart of values and intervals for each metric, the model's own rows in colour, real images as a line."""
    real: dict[str, Any] = next((row["metrics"] for row in floors if row["model"] == "real"), {})
    charts = []
    for name in names:
        rows = []
        for row in [row for row in evaluations if name in row["metrics"]]:
            value, low, high = (row["metrics"][name][key] for key in ("value", "low", "high"))
            rows.append((f"{row['model']} {row['nfe']}", value, low, high, row["model"] == own))
        metric = metric_of(name)
        text = "; ".join(f"{label} NFE: {figure(value)}" for label, value, *_ in rows)
        ideal = {"value": 1.0 if metric.better == "nearer to 1" else None}
        mark = real.get(name, ideal)["value"]
        if rows:
            charts.append({"metric": metric, "svg": Markup(interval_chart(rows, f"{metric.title}. {text}", mark))})
    return charts


def sheet_of(title: str, text: str, columns: Mapping[str, Mapping[str, Tensor]], num_shown: int) -> dict[str, Any]:
    """Pictures side by side: rows are captions that all columns have, evenly over them.

    Args:
        columns: head -> caption -> uint8 [3, H, W].
    """
    first, *others = columns.values()
    captions = [caption for caption in first if all(caption in images for images in others)]
    shown = [captions[i] for i in spread(len(captions), num_shown).tolist()]
    rows = [
        {"caption": caption, "pictures": [picture_uri(images[caption]) for images in columns.values()]}
        for caption in shown
    ]
    return {"title": title, "text": text, "heads": list(columns), "rows": rows}


def first_of_each(folder: Path) -> dict[str, Tensor]:
    """Caption -> the first of its samples in a sample folder; nothing where there is none."""
    found: dict[str, Tensor] = {}
    for row, image in read_images(folder) if folder.is_dir() else []:
        found.setdefault(row.prompt, image)
    return found


def picture_uri(image: Tensor) -> str:
    """uint8 [3, H, W] for a page's own text."""
    return data_uri(png_bytes(to_picture(image)))
