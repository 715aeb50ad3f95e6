"""What the demo adds to its run's page: before and after, beside the shipped models and the floors."""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from e2ed2.evaluation.metrics.table import is_better, metric_of
from e2ed2.evaluation.results import read_results
from e2ed2.reports.page import data_uri
from e2ed2.sampling.folder import read_images
from e2ed2.system.drawing.charts import interval_chart
from e2ed2.system.drawing.figures import figure
from e2ed2.system.drawing.pictures import png_bytes, to_picture

NUM_PROMPTS, SEEDS_PER_PROMPT = 12, 2
HEADLINE = ("kernel_distance", "recall", "coverage", "alignment", "sharpness")


def compared(run_dir: Path) -> dict[str, Any]:
    """For `reports.run_page`: what `metrics.json`, `floors.json` and `evaluation/{real,before,after}` hold."""
    evaluations, floors = read_results(run_dir / "metrics.json"), read_results(run_dir / "floors.json")
    names = list(dict.fromkeys(name for row in [*evaluations, *floors] for name in row["metrics"]))
    return {
        "changes": _changes(evaluations),
        "prompts": _prompts(run_dir / "evaluation"),
        "metrics": [(name, metric_of(name)) for name in names],
        "evaluations": evaluations,
        "floors": floors,
        "dots": _dots(evaluations, floors, names),
    }


def verdict(name: str, before: dict[str, float], after: dict[str, float]) -> str:
    """`better`, `worse`, or `no clear change` when the 95% intervals overlap."""
    if before["low"] <= after["high"] and after["low"] <= before["high"]:
        return "no clear change"
    if is_better(name, after["value"], before["value"]):
        return "better"
    return "worse" if is_better(name, before["value"], after["value"]) else "changed"


def _changes(evaluations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The headline: what the demo's training did to the model it started from, metric by metric."""
    found = {(row["model"], row["nfe"]): row for row in evaluations}
    after = next((row for (model, _), row in found.items() if model == "demo"), None)
    before = found.get(("lcm", after["nfe"])) if after else None
    if after is None or before is None:
        return []
    names = [name for name in HEADLINE if name in before["metrics"] and name in after["metrics"]]
    return [
        {
            "metric": metric_of(name),
            "before": before["metrics"][name],
            "after": after["metrics"][name],
            "verdict": verdict(name, before["metrics"][name], after["metrics"][name]),
        }
        for name in names
    ]


def _prompts(folder: Path) -> list[dict[str, Any]]:
    """The first prompts with their real image, and the samples before and after from the same noise."""
    real = {row.prompt: image for row, image in read_images(folder / "real")}
    before = {(row.prompt, row.seed): image for row, image in read_images(folder / "before")}
    after = {(row.prompt, row.seed): image for row, image in read_images(folder / "after")}
    shown = []
    for prompt in [p for p in dict.fromkeys(p for p, _ in before) if p in real][:NUM_PROMPTS]:
        both = [key for key in before if key[0] == prompt and key in after][:SEEDS_PER_PROMPT]
        pairs = [(f"seed {seed}", _inline(before[prompt, seed]), _inline(after[prompt, seed])) for _, seed in both]
        if pairs:
            shown.append({"prompt": prompt, "real": _inline(real[prompt]), "pairs": pairs})
    return shown


def _dots(
    evaluations: list[dict[str, Any]], floors: list[dict[str, Any]], names: list[str]
) -> list[dict[str, Any]]:
    """A chart of values and intervals for each metric, the demo's own row in colour, real images as a line."""
    real: dict[str, Any] = next((row["metrics"] for row in floors if row["model"] == "real"), {})
    charts = []
    for name in names:
        rows = []
        for row in [row for row in evaluations if name in row["metrics"]]:
            value, low, high = (row["metrics"][name][key] for key in ("value", "low", "high"))
            rows.append((f"{row['model']} {row['nfe']}", value, low, high, row["model"] == "demo"))
        metric = metric_of(name)
        text = "; ".join(f"{label} NFE: {figure(value)}" for label, value, *_ in rows)
        ideal = {"value": 1.0 if metric.better == "nearer to 1" else None}
        mark = real.get(name, ideal)["value"]
        if rows:
            charts.append({"metric": metric, "svg": Markup(interval_chart(rows, f"{metric.title}. {text}", mark))})
    return charts


def _inline(image: Any) -> str:
    return data_uri(png_bytes(to_picture(image)))
