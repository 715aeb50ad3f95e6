"""`report.html`: a run folder as one page, with nothing loaded from elsewhere: pictures, curves, figures, settings."""

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from e2ed2.recipe.data import DataConfig
from e2ed2.reports.curves import curves_of, evaluations_of, measured
from e2ed2.reports.next_steps import commands, differences
from e2ed2.reports.page import asset, write_page
from e2ed2.reports.previews import Address, previews
from e2ed2.reports.run_state import Told, told
from e2ed2.system.drawing.figures import figure
from e2ed2.system.errors import UserError
from e2ed2.system.readers.json_file import read_json
from e2ed2.system.readers.text import read_text
from e2ed2.system.readers.yaml_file import parse_yaml
from e2ed2.training.log import read_metrics
from e2ed2.training.run_folder import DATA_FILE

Rows = list[dict[str, float]]
# What a page may show beside the run: a headline (title, text) with the metrics that changed, prompts with their images
# before and after, sheets of pictures under heads, tables (see `comparisons.table_of`), the command that made it all.
NO_COMPARISON: MappingProxyType[str, Any] = MappingProxyType(
    {"headline": None, "made_by": "", "is_demo": False, "changes": [], "prompts": [], "sheets": [], "tables": []}
)


def write_report(run_dir: Path, comparison: Mapping[str, Any] = NO_COMPARISON) -> Path:
    """Write `run_dir/report.html` from what the folder holds; parts that are not there are left out.

    Args:
        comparison: with other models, what `NO_COMPARISON` is empty of.
    Raises:
        UserError: the folder cannot be written.
    """
    values = run_values(run_dir, comparison)
    return write_page(run_dir / "report.html", "report.html.j2", script=asset("run.js"), **values)


def run_values(
    run_dir: Path,
    comparison: Mapping[str, Any] = NO_COMPARISON,
    *,
    rows: Rows | None = None,
    address: Address | None = None,
) -> dict[str, Any]:
    """What the page of a run shows.

    Read are `state.json`, `config.yaml`, `data_summary.json`, `environment.json`, `metrics.jsonl`,
    `samples/step-*.png` and the evaluations made while training.

    Args:
        comparison: as of `write_report`. rows: of `metrics.jsonl`, where they are known already.
        address: of the previews, where they are not in the page itself.
    """
    rows = read_metrics(run_dir / "metrics.jsonl") if rows is None else rows
    config, settings = read_recipe(run_dir)
    state = told(run_dir)
    pictures = previews(run_dir, address)
    captions = sorted((row["caption"] for row in pictures["followed"]), key=len)
    data = _read_json(run_dir / DATA_FILE)
    evaluations, problems = evaluations_of(run_dir)
    beside = {name: value for name, value in comparison.items() if value and name != "problems"}
    return {
        "run_dir": run_dir,
        "written": time.time(),
        "state": state,
        "stage": settings.get("stage", state.stage),
        "problems": [*problems, *comparison.get("problems", ())],
        "facts": facts(state, rows),
        "data_facts": _read(data, settings),
        "data_said": [str(line).removeprefix("note: ") for line in data.get("said") or ()],
        "skipped": [str(item) for item in data.get("first_skipped") or ()],
        "num_skipped": data.get("skipped"),
        "has_own_prompts": bool(comparison.get("prompts")),
        "curves": curves_of(rows),
        "measured": measured(evaluations, settings.get("evaluation") or {}),
        "num_measured": len(evaluations),
        "differences": differences(settings),
        "commands": commands(run_dir, settings, state, captions[0] if captions else None),
        "config": config,
        "environment": _read_json(run_dir / "environment.json"),
        **(NO_COMPARISON | pictures | beside),
    }


def facts(state: Told, rows: Rows) -> list[str]:
    """How far a run is and what it takes, in a few words."""
    last = rows[-1] if rows else state.row
    if not last:
        return []
    speeds = sorted(row["images_per_second"] for row in rows[-200:]) or [last["images_per_second"]]
    speed = speeds[len(speeds) // 2]
    asked = f" of {state.max_steps:,}" if state.max_steps > state.step else ""
    return [
        f"{state.step:,}{asked} updates",
        f"{last['images_seen']:,.0f} images seen",
        f"{figure(speed)} images/s",
        f"{last['peak_memory_bytes'] / 2**30:.1f} GiB at most",
        state.left or f"about {max(last['images_seen'] / speed / 60, 0.1):.1f} min of updates",
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
    return [words, *([f"{counts['skipped']:,} skipped"] if "skipped" in counts else []), *_sizes(data)]


def _sizes(data: Mapping[str, Any]) -> list[str]:
    """How large the images are, in a few words; nothing where nobody knows."""
    try:
        least, median, most = (f"{width:,} x {height:,}" for height, width in data["sizes"])
    except (KeyError, TypeError, ValueError):
        return []
    words = f"all {least} px" if least == most else f"from {least} to {most} px, half of them up to {median}"
    enlarged = data.get("enlarged")
    return [words, *([f"{enlarged:,} smaller than what is trained, and enlarged"] if enlarged else [])]


def _default_caption(settings: Mapping[str, Any]) -> str:
    """What the recipe has for images without a caption, quoted; of several, the field's name."""
    try:
        data = DataConfig.model_validate(settings.get("data"))
    except ValidationError:
        return "by data.default_caption"
    found = {source.default_caption for source in (data, *data.sources) if source.default_caption}
    return f"'{found.pop()}'" if len(found) == 1 else "by data.default_caption"


def read_recipe(run_dir: Path) -> tuple[str, dict[str, Any]]:
    """A run's recipe as text and as values; nothing where somebody broke it, or it is not there yet."""
    try:
        text = read_text(run_dir / "config.yaml", "recipe")
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
