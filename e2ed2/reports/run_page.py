"""`report.html`: a run folder as one page, with nothing loaded from elsewhere: pictures, curves, figures, settings."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from markupsafe import Markup
from pydantic import ValidationError

import e2ed2.emoji.metrics  # noqa: F401 - how to read its metrics
from e2ed2.evaluation.metrics.table import metric_of
from e2ed2.recipe.data import DataConfig
from e2ed2.reports.next_steps import commands, differences
from e2ed2.reports.page import write_page
from e2ed2.reports.previews import previews
from e2ed2.system.drawing.charts import band_chart, line_chart, lines_chart
from e2ed2.system.drawing.figures import central, figure, interval
from e2ed2.system.errors import UserError
from e2ed2.system.readers.json_file import read_json
from e2ed2.system.readers.text import read_text
from e2ed2.system.readers.yaml_file import parse_yaml
from e2ed2.training.log import read_metrics
from e2ed2.training.run_folder import DATA_FILE
from e2ed2.training.validation import best_so_far, deciding_metric, read_evaluations

MAX_LINES = 12  # of a chart
# What a page may show beside the run: a headline (title, text) with the metrics that changed, prompts with their images
# before and after, sheets of pictures under heads, tables (see `comparisons.table_of`), the command that made it all.
NO_COMPARISON: MappingProxyType[str, Any] = MappingProxyType(
    {"headline": None, "made_by": "", "is_demo": False, "changes": [], "prompts": [], "sheets": [], "tables": []}
)
OTHER_COLUMNS = {"global_step", "images_seen", "images_per_second", "peak_memory_bytes", "lr", "grad_norm"}
TITLES = {"grad_norm": "gradient norm before clipping", "lr": "learning rate", "total": "loss, weighted sum"}


def write_report(run_dir: Path, comparison: Mapping[str, Any] = NO_COMPARISON) -> Path:
    """Write `run_dir/report.html` from what the folder holds; parts that are not there are left out.

    Read are `config.yaml`, `data_summary.json`, `environment.json`, `metrics.jsonl`, `samples/step-*.png` and the
    evaluations made while training.

    Args:
        comparison: with other models, what `NO_COMPARISON` is empty of.
    Raises:
        UserError: the folder cannot be written.
    """
    rows = read_metrics(run_dir / "metrics.jsonl")
    config, settings = _config(run_dir / "config.yaml")
    step = int(rows[-1]["global_step"]) if rows else 0
    pictures = previews(run_dir / "samples")
    captions = sorted((row["caption"] for row in pictures["followed"]), key=len)
    data = _read_json(run_dir / DATA_FILE)
    return write_page(
        run_dir / "report.html",
        "report.html.j2",
        run_dir=run_dir,
        stage=settings.get("stage", ""),
        facts=[*_facts(rows), *_read(data, settings)],
        skipped=[str(item) for item in data.get("first_skipped") or ()],
        num_skipped=data.get("skipped"),
        has_own_prompts=bool(comparison.get("prompts")),
        curves=_curves(rows),
        measured=_measured(run_dir, settings.get("evaluation") or {}),
        num_measured=len(read_evaluations(run_dir)),
        differences=differences(settings),
        commands=commands(run_dir, settings, step, captions[0] if captions else None),
        config=config,
        environment=_read_json(run_dir / "environment.json"),
        central=central,
        interval=interval,
        **(NO_COMPARISON | pictures | {name: value for name, value in comparison.items() if value}),
    )


def _curves(rows: list[dict[str, float]]) -> list[dict[str, Any]]:
    """A chart for each loss term, the gradient norm and the learning rate."""
    if len(rows) < 2:
        return []
    terms = [name for name in rows[-1] if name not in OTHER_COLUMNS and "/" not in name]
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
        lines = _by_start(name, rows)
        chart = lines_chart(lines, text) if lines else line_chart(list(xs), list(ys), text, is_noisy=name != "lr")
        curves.append({"title": title, "svg": Markup(chart), "by_start": bool(lines)})
    return curves


def _by_start(term: str, rows: list[dict[str, float]]) -> dict[str, tuple[list[float], list[float]]]:
    """A term's (steps, values) by where chains began, from noise to nearly clean: `2 of 4` is the second of four steps.

    Where there are many starts, neighbours share a line. A run that does not draw where its chains begin has none.
    """
    found: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if (match := re.fullmatch(rf"{re.escape(term)}/from_(\d+)_of_(\d+)", name)) and value is not None:
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


def _read(data: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """What was read, in a few words."""
    counts = {name: value for name, value in data.items() if isinstance(value, int)}
    if "images" not in counts:
        return []
    images, by_default, captions = counts["images"], counts.get("captioned_by_default", 0), counts.get("captions", 0)
    words = f"{images:,} training image{'' if images == 1 else 's'}"
    if by_default:
        who = "all" if by_default == images else f"{by_default:,} of them"
        words += f", {who} captioned {_default_caption(settings)}{', the others' if captions else ''}"
    if captions:
        words += " with one caption" if captions == 1 else f" with {captions:,} different captions"
    return [words, f"{counts['skipped']:,} skipped"] if "skipped" in counts else [words]


def _default_caption(settings: Mapping[str, Any]) -> str:
    """What the recipe has for images without a caption, quoted; of several, the field's name."""
    try:
        data = DataConfig.model_validate(settings.get("data"))
    except ValidationError:
        return "by data.default_caption"
    found = {source.default_caption for source in (data, *data.sources) if source.default_caption}
    return f"'{found.pop()}'" if len(found) == 1 else "by data.default_caption"


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
