"""Runs side by side: curves in one chart, fields that differ, previews of the same prompt and noise."""

import json
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from markupsafe import Markup

import e2ed2.emoji.metrics  # noqa: F401 - how to read its metrics
from e2ed2.evaluation.metrics.table import metric_of
from e2ed2.evaluation.results import read_results
from e2ed2.recipe.load import flatten
from e2ed2.reports.comparisons import table_of
from e2ed2.reports.curves import TITLES, evaluations_of, terms_of
from e2ed2.reports.previews import MOST_OVER, Found, evenly, find_previews
from e2ed2.reports.run_page import read_recipe
from e2ed2.reports.run_state import told
from e2ed2.system.drawing.charts import lines_chart
from e2ed2.system.errors import UserError
from e2ed2.web.runs import Runs

NUM_PROMPTS = 8
MISSING = "–"


def side_by_side(runs: Runs, names: Sequence[str]) -> dict[str, Any]:
    """What the page of several runs shows; KeyError where one is gone."""
    folders = {name: runs.path(name) for name in names}
    return {
        "names": list(names),
        "states": {name: told(folder) for name, folder in folders.items()},
        "curves": _curves(runs, names),
        "fields": different_fields({name: read_recipe(folder)[1] for name, folder in folders.items()}),
        "tables": _tables(folders),
        **_pictures(folders),
    }


def different_fields(recipes: dict[str, dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """(Field, its value in each) of what recipes do not have in common; the folder that a run is in does not count."""
    flat = [flatten(values) for values in recipes.values()]
    names = list(dict.fromkeys(name for values in flat for name in values if name != "run.dir"))
    rows = [(name, [_text(values[name]) if name in values else MISSING for values in flat]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def tables_of(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Evaluations as a run's page shows them, a table a protocol; none of what is not there.

    Raises:
        UserError: unreadable, or no evaluation.
    """
    rows = [row for path in paths for row in read_results(path)]
    return _by_protocol(rows)


def _by_protocol(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    protocols = list(dict.fromkeys((row["protocol"], row["protocol_sha256"]) for row in rows))
    tables = []
    for name, sha256 in protocols:
        own = [_told(row) for row in rows if row["protocol_sha256"] == sha256]
        short = Path(name).stem if "/" in name else name
        tables.append(table_of(f"Measured: {short}", "", own, ""))
    return tables


def _told(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "measured": row.get("measured") or "here", "command": row.get("command") or ""}


def _tables(folders: dict[str, Path]) -> list[dict[str, Any]]:
    """The last evaluation of each run while it trained, and what was measured of it afterwards."""
    rows = []
    for name, folder in folders.items():
        measured = evaluations_of(folder)[0]
        found = [measured[step] | {"model": f"{name}, {step:,} updates"} for step in [*measured][-1:]]
        with suppress(UserError):  # damaged; its own page says so
            found += [row | {"model": f"{name}: {row['model']}"} for row in read_results(folder / "metrics.json")]
        rows += found
    return _by_protocol(rows)


def _curves(runs: Runs, names: Sequence[str]) -> list[dict[str, Any]]:
    """A chart a term, a line a run."""
    rows = {name: runs.rows(name) for name in names}
    terms = list(dict.fromkeys(term for own in rows.values() for term in terms_of(own)))
    charts = []
    for term in [*terms, "grad_norm", "lr"]:
        lines = {}
        for name, own in rows.items():
            points = [(row["global_step"], row[term]) for row in own if row.get(term) is not None]
            if len(points) > 1:
                xs, ys = zip(*points, strict=True)
                lines[name] = list(xs), list(ys)
        if lines:
            title = TITLES.get(term, term.replace("_", " "))
            charts.append({"title": title, "svg": Markup(lines_chart(lines, f"{title} of {', '.join(lines)}"))})
    return charts + _measured_curves({name: runs.path(name) for name in names})


def _measured_curves(folders: dict[str, Path]) -> list[dict[str, Any]]:
    """A chart a metric that was measured while training."""
    lines: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for name, folder in folders.items():
        measured = evaluations_of(folder)[0]
        for metric in next(iter(measured.values()), {"metrics": {}})["metrics"]:
            values = [found["metrics"][metric]["value"] for found in measured.values() if metric in found["metrics"]]
            if len(values) == len(measured) > 1:
                lines.setdefault(metric, {})[name] = [float(step) for step in measured], values
    found = [(f"{metric_of(name).title} ({metric_of(name).better})", own) for name, own in lines.items()]
    return [{"title": title, "svg": Markup(lines_chart(own, f"{title} of {', '.join(own)}"))} for title, own in found]


def _pictures(folders: dict[str, Path]) -> dict[str, Any]:
    """Previews of the captions that all runs have, over all updates of any: of each run the last one until then."""
    previews = {name: found for name, folder in folders.items() if (found := find_previews(folder / "samples")[0])}
    steps = sorted({step for found in previews.values() for step in found.paths})
    over = evenly(steps, MOST_OVER)
    captions = [{caption: row for row, (caption, _) in enumerate(found.form)} for found in previews.values()]
    common = [caption for caption in captions[0] if all(caption in own for own in captions)] if captions else []
    rows = []
    for caption in common[:NUM_PROMPTS]:
        columns = []
        for (name, found), own in zip(previews.items(), captions, strict=True):
            columns.append({"run": name, "over": _over(name, found, own[caption], over)})
        name, found = next(iter(previews.items()))
        first = next(iter(found.paths))
        real = f"/picture/{first}/{captions[0][caption]}/0/{name}" if len(found.form[0][1]) > 1 else None
        rows.append({"caption": caption, "real": real, "columns": columns})
    beside = next((found.form[0][1][0] for found in previews.values()), "real")
    return {"over": over, "rows": rows, "shown": list(previews), "beside": beside}


def _over(name: str, found: Found, row: int, over: Sequence[int]) -> list[str]:
    """Where a run's picture of a caption lies, at each of some updates."""
    own, column = [*found.paths], len(found.form[row][1]) - 1
    at = [own[max(bisect_right(own, step) - 1, 0)] for step in over]
    return [f"/picture/{step}/{row}/{column}/{name}" for step in at]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
