"""What `e2ed2 study analyze` writes: the page, Figure 6, a LaTeX table, and every figure as JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from e2ed2.reports.page import write_page
from e2ed2.study.analysis.analyze import Analysis, ByCriterion, Contest
from e2ed2.study.analysis.crossed import Interval
from e2ed2.study.analysis.figure import outcomes_svg
from e2ed2.study.analysis.tables import HEADS, TITLES, cells, latex, notes, percent, preferred, signed, strength_cells
from e2ed2.system.drawing.charts import figure, interval_chart
from e2ed2.system.drawing.pictures import svg_png
from e2ed2.system.errors import harmless
from e2ed2.system.files import write_file


def write_report(analysis: Analysis, source: str, out: Path) -> list[Path]:
    """Write `report.html`, `figure.svg`, `figure.png`, `table.tex`, `analysis.json` into a folder; returns the files.

    Args:
        source: what was analyzed, in words.
    Raises:
        UserError: the disk refuses.
    """
    chart = harmless(outcomes_svg(analysis))  # XML has no control characters
    svg = harmless(figure([(_title(analysis), chart)]))
    files = {
        "figure.svg": svg.encode(),
        "figure.png": svg_png(svg),
        "table.tex": latex(analysis).encode(),
        "analysis.json": (json.dumps(analysis.to_json(), indent=1) + "\n").encode(),
    }
    for name, content in files.items():
        write_file(out / name, content)
    values = _values(analysis) | {"source": source, "chart": Markup(chart), "latex": files["table.tex"].decode()}
    return [write_page(out / "report.html", "study.html.j2", **values), *(out / name for name in files)]


def _title(analysis: Analysis) -> str:
    models = " against ".join(analysis.models) if len(analysis.models) == 2 else ", ".join(analysis.models)
    return f"{models}: {len(analysis.raters)} raters, {analysis.prompts:,} prompts"


def _values(analysis: Analysis) -> dict[str, Any]:
    """What the page's template asks for."""
    heads, rows = strength_cells(analysis)
    return {
        "analysis": analysis,
        "title": _title(analysis),
        "notes": notes(analysis),
        "heads": HEADS,
        "contests": [_contest(contest) for contest in analysis.contests],
        "strengths": {"heads": heads, "rows": rows, "charts": _strength_charts(analysis)} if len(heads) > 1 else None,
        "titles": TITLES,
        "percent": percent,
    }


def _contest(contest: Contest) -> dict[str, Any]:
    """A section of two models."""
    return {
        "first": contest.first,
        "second": contest.second,
        "rows": cells(contest.overall),
        "cards": [
            (TITLES[criterion], percent(found.preference), preferred(contest, found), found.preference.limits)
            for criterion, found in contest.overall.items()
        ],
        "attentive": [row[:5] for row in cells(contest.attentive)],
        "parts": [
            {"title": title, "rows": _part_rows(parts), "charts": _part_charts(parts, contest)}
            for title, parts in (("By rater group", contest.by_group), ("By prompt category", contest.by_category))
            if parts
        ],
        "variance": [
            (TITLES[criterion], f"{100 * found.rater_share:.0f}%", f"{100 * found.prompt_share:.0f}%")
            for criterion, found in contest.overall.items()
            if found.rater_share is not None and found.prompt_share is not None
        ],
    }


def _part_rows(parts: Mapping[str, ByCriterion]) -> list[list[str]]:
    return [
        [name or "(none)", row[0], str(found.raters), str(found.prompts), *row[1:5]]
        for name, part in parts.items()
        for row, found in zip(cells(part), part.values(), strict=True)
    ]


def _part_charts(parts: Mapping[str, ByCriterion], contest: Contest) -> list[tuple[str, Markup]]:
    """The preference in each part, a chart for each criterion."""
    charts = []
    for criterion, whole in contest.overall.items():
        rows = [("all", whole.preference, True)]
        own = {name: part[criterion] for name, part in parts.items() if criterion in part}
        rows += [(name or "(none)", found.preference, False) for name, found in own.items()]
        charts.append((TITLES[criterion], _intervals(rows, f"Preference for {contest.first}", 0.5)))
    return charts


def _strength_charts(analysis: Analysis) -> list[tuple[str, Markup]]:
    return [
        (TITLES[criterion], _intervals([(m, i, False) for m, i in found.log_strength.items()], "Strength", 0.0))
        for criterion, found in analysis.strengths.items()
        if found
    ]


def _intervals(rows: list[tuple[str, Interval, bool]], what: str, mark: float) -> Markup:
    """A chart of figures and their intervals; a figure without one is a dot alone."""
    lines = [(name, i.value, *(i.limits or (i.value, i.value)), is_own) for name, i, is_own in rows]
    told = "; ".join(f"{name}: {signed(interval)}" for name, interval, _ in rows)
    return Markup(interval_chart(lines, f"{what}. {told}", mark))
