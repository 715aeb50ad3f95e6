"""Evaluations for people, as tables on a terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

import e2ed2.emoji.metrics  # noqa: F401 - how to read its metrics
from e2ed2.evaluation.metrics.table import metric_of
from e2ed2.evaluation.results import metric_rows
from e2ed2.system.drawing.figures import central, figure, half_width

NARROW, WIDE = 80, 140


def print_evaluation(result: dict[str, Any]) -> None:
    """One evaluation on stdout: a row per metric with its 95% interval and the way that is better."""
    rate = result.get("images_per_second")
    speed = f", {figure(rate)} images/s" if rate else ""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("metric", "value", "95% interval", "better"):
        table.add_column(heading, justify="right" if heading == "value" else "left", header_style="bold")
    for row in metric_rows(result):
        table.add_row(*row)
    console = _console()
    console.print(
        f"{result['model']} under {result['protocol']}: {result['nfe']} NFE, {result['num_images']} images{speed}",
        style="bold", markup=False, soft_wrap=True,
    )
    console.print(table)
    console.print(f"reference: {result['reference']}", markup=False, soft_wrap=True)
    for note in result.get("notes", []):
        console.print(f"note: {note}", markup=False, soft_wrap=True)


def print_comparison(rows: list[dict[str, Any]]) -> None:
    """Many evaluations on stdout, a line each: value, and half the width of its 95% interval below it."""
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("model", "NFE", "images"):
        table.add_column(heading, justify="left" if heading == "model" else "right", header_style="bold")
    for name in names:
        table.add_column(metric_of(name).short, justify="right", header_style="bold", no_wrap=True)
    for row in rows:
        mark = "" if row.get("measured") == "here" else " *"
        cells = [_cell(row["metrics"].get(name)) for name in names]
        table.add_row(f"{row['model']}{mark}", str(row["nfe"]), str(row["num_images"]), *cells)
    console = _console()
    console.print(table)
    if any(row.get("measured") == "shipped" for row in rows):
        console.print("* measured when the model was made; --full measures it here", style="dim")


def _cell(estimate: dict[str, float] | None) -> str:
    if estimate is None:
        return "-"
    return f"{central(estimate)}\n[dim]{half_width(estimate)}[/dim]"


def _console() -> Console:
    """Stdout; where it is no terminal, wide enough that no figure is cut."""
    console = Console(highlight=False)
    return console if console.is_terminal and console.width >= NARROW else Console(highlight=False, width=WIDE)
