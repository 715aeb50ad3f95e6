"""`report.html`: a run folder as one page, with nothing loaded from elsewhere: pictures, curves, figures, settings."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import e2ed2.emoji.metrics  # noqa: F401 - how to read its metrics
from e2ed2.evaluation.metrics.table import is_better, metric_of
from e2ed2.evaluation.results import central, interval, read_results
from e2ed2.system.charts import band_chart, interval_chart, line_chart
from e2ed2.sampling.folder import read_images
from e2ed2.system.console import figure
from e2ed2.system.errors import UserError
from e2ed2.system.files import write_file
from e2ed2.system.json_file import read_json
from e2ed2.system.pictures import png_bytes, to_picture
from e2ed2.system.text import read_text
from e2ed2.system.yaml_file import parse_yaml
from e2ed2.training.log import read_metrics
from e2ed2.training.validation import best_so_far, deciding_metric, read_evaluations

NUM_PROMPTS, SEEDS_PER_PROMPT, NUM_PREVIEWS = 12, 2, 6
HEADLINE = ("kernel_distance", "recall", "coverage", "alignment", "sharpness")
OTHER_COLUMNS = {"global_step", "images_seen", "images_per_second", "peak_memory_bytes", "lr", "grad_norm"}
TITLES = {"grad_norm": "gradient norm before clipping", "lr": "learning rate", "total": "loss, weighted sum"}


def write_report(run_dir: Path) -> Path:
    """Write `run_dir/report.html` from what the folder holds; parts that are not there are left out.

    Read are `config.yaml`, `environment.json`, `metrics.jsonl`, `samples/step-*.png`, the evaluations made while
    training, and, after a demo, `metrics.json`, `floors.json` and the sample folders `evaluation/{real,before,after}`.

    Raises:
        UserError: the folder cannot be written.
    """
    rows = read_metrics(run_dir / "metrics.jsonl")
    evaluations, floors = read_results(run_dir / "metrics.json"), read_results(run_dir / "floors.json")
    config, settings = _config(run_dir / "config.yaml")
    names = list(dict.fromkeys(name for row in [*evaluations, *floors] for name in row["metrics"]))
    environment = Environment(
        loader=PackageLoader("e2ed2.reports", "assets"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("report.html.j2").render(
        run_dir=run_dir,
        stage=settings.get("stage", ""),
        facts=_facts(rows),
        changes=_changes(evaluations),
        prompts=_prompts(run_dir / "evaluation"),
        previews=_previews(run_dir / "samples"),
        curves=_curves(rows),
        measured=_measured(run_dir, settings.get("evaluation") or {}),
        metrics=[(name, metric_of(name)) for name in names],
        evaluations=evaluations,
        floors=floors,
        dots=_dots(evaluations, floors, names),
        config=config,
        environment=_read_json(run_dir / "environment.json"),
        central=central,
        interval=interval,
    )
    write_file(run_dir / "report.html", page.encode())
    return run_dir / "report.html"


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
        pairs = [(seed, _inline(before[prompt, seed]), _inline(after[prompt, seed])) for _, seed in both]
        if pairs:
            shown.append({"prompt": prompt, "real": _inline(real[prompt]), "pairs": pairs})
    return shown


def _previews(folder: Path) -> list[dict[str, Any]]:
    """Up to six preview grids, evenly over the training, the first and the last among them."""
    paths = sorted(folder.glob("step-*.png"))
    last = len(paths) - 1
    count = min(NUM_PREVIEWS, len(paths))
    chosen = [paths[round(i * last / max(count - 1, 1))] for i in range(count)]
    return [{"step": int(path.stem.partition("-")[2]), "image": _data_uri(path.read_bytes())} for path in chosen]


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


def _inline(image: Any) -> str:
    return _data_uri(png_bytes(to_picture(image)))


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
