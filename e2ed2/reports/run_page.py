"""`report.html`: a run folder as one page, with nothing loaded from elsewhere: pictures, curves, figures, settings."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from markupsafe import Markup

import e2ed2.emoji.metrics  # noqa: F401 - how to read its metrics
from e2ed2.evaluation.metrics.table import metric_of
from e2ed2.reports.page import data_uri, write_page
from e2ed2.system.drawing.charts import band_chart, line_chart
from e2ed2.system.drawing.figures import central, figure, interval
from e2ed2.system.errors import UserError
from e2ed2.system.readers.json_file import read_json
from e2ed2.system.readers.text import read_text
from e2ed2.system.readers.yaml_file import parse_yaml
from e2ed2.training.log import read_metrics
from e2ed2.training.validation import best_so_far, deciding_metric, read_evaluations

NUM_PREVIEWS = 6
# The headline, prompts with their images before and after, rows of a table with their metrics, real images, charts.
NO_COMPARISON = MappingProxyType(dict.fromkeys(("changes", "prompts", "metrics", "evaluations", "floors", "dots"), ()))
OTHER_COLUMNS = {"global_step", "images_seen", "images_per_second", "peak_memory_bytes", "lr", "grad_norm"}
TITLES = {"grad_norm": "gradient norm before clipping", "lr": "learning rate", "total": "loss, weighted sum"}


def write_report(run_dir: Path, comparison: Mapping[str, Any] = NO_COMPARISON) -> Path:
    """Write `run_dir/report.html` from what the folder holds; parts that are not there are left out.

    Read are `config.yaml`, `environment.json`, `metrics.jsonl`, `samples/step-*.png` and the evaluations made while
    training.

    Args:
        comparison: with other models, what `NO_COMPARISON` is empty of.
    Raises:
        UserError: the folder cannot be written.
    """
    rows = read_metrics(run_dir / "metrics.jsonl")
    config, settings = _config(run_dir / "config.yaml")
    return write_page(
        run_dir / "report.html",
        "report.html.j2",
        run_dir=run_dir,
        stage=settings.get("stage", ""),
        facts=_facts(rows),
        previews=_previews(run_dir / "samples"),
        curves=_curves(rows),
        measured=_measured(run_dir, settings.get("evaluation") or {}),
        config=config,
        environment=_read_json(run_dir / "environment.json"),
        central=central,
        interval=interval,
        **comparison,
    )


def _previews(folder: Path) -> list[dict[str, Any]]:
    """Up to six preview grids, evenly over the training, the first and the last among them."""
    paths = sorted(folder.glob("step-*.png"))
    last = len(paths) - 1
    count = min(NUM_PREVIEWS, len(paths))
    chosen = [paths[round(i * last / max(count - 1, 1))] for i in range(count)]
    return [{"step": int(path.stem.partition("-")[2]), "image": data_uri(path.read_bytes())} for path in chosen]


def _curves(rows: list[dict[str, float]]) -> list[dict[str, Any]]:
    """A chart for each loss term, the gradient norm and the learning rate."""
    if len(rows) < 2:
        return []
    terms = [name for name in rows[-1] if name not in OTHER_COLUMNS]
    if len(terms) == 2 and all(row.get(terms[0]) == row["total"] for row in rows):
        terms.remove("total")  # one term of weight 1 is the total
    curves = []
    for name in [*terms, "grad_norm", "lr"]:
        points = [(row["global_step"], row[name]) for row in rows if row.get(name) is not None]
        if len(points) < 2:
            continue
        xs, ys = zip(*points, strict=True)
        title = TITLES.get(name, name.replace("_", " "))
        text = f"{title} over {len(xs)} logged steps, from {figure(ys[0])} to {figure(ys[-1])}"
        curves.append({"title": title, "svg": Markup(line_chart(list(xs), list(ys), text, is_noisy=name != "lr"))})
    return curves


def _measured(run_dir: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The evaluations made while training, a chart for each metric; None where there are fewer than two."""
    measured = read_evaluations(run_dir)
    if len(measured) < 2:
        return None
    steps, results = list(measured), list(measured.values())
    metric = deciding_metric(asked.get("metric"), results[0]["metrics"])
    best = best_so_far(measured, metric)[steps[-1]]
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


def _facts(rows: list[dict[str, float]]) -> list[str]:
    """What the training was, in a few words."""
    if not rows:
        return []
    last = rows[-1]
    speeds = sorted(row["images_per_second"] for row in rows)
    speed = speeds[len(speeds) // 2]
    return [
        f"{last['global_step']:,.0f} updates",
        f"{last['images_seen']:,.0f} images seen",
        f"{figure(speed)} images/s",
        f"about {max(last['images_seen'] / speed / 60, 0.1):.1f} min",
        f"{last['peak_memory_bytes'] / 2**30:.1f} GiB at most",
    ]


def _config(path: Path) -> tuple[str, dict[str, Any]]:
    """A run's recipe as text and as values; nothing where somebody broke it."""
    try:
        text = read_text(path, "recipe")
        values = parse_yaml(text)
    except ValueError:
        return "", {}
    return text, values if isinstance(values, dict) else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path, "environment", "")
    except UserError:
        return {}
    return values if isinstance(values, dict) else {}
