"""`e2ed2 compare`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from e2ed2.commands.shared import waiting_for
from e2ed2.system.errors import harmless

EXAMPLES = (
    "[dim]Examples[/dim]\n\n"
    "e2ed2 compare runs/evaluations/coco30k/* --out runs/table1\n\n"
    "e2ed2 compare runs/a runs/b --baseline runs/a --metric fid --metric clip_score --zoom 0.3,0.3,0.25"
)


def compare(
    evaluations: Annotated[
        list[Path],
        typer.Argument(metavar="EVAL...", help="Files that `evaluate` wrote, or their folders.", show_default=False),
    ],
    baseline: Annotated[Path | None, typer.Option(help="One of them: paired differences of the others to it.")] = None,
    metric: Annotated[list[str] | None, typer.Option(help="A column; repeat for more.", show_default="all")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for table.md, compare.html and grids of samples.")] = None,
    num_prompts: Annotated[int, typer.Option(help="Rows of a grid.", min=1)] = 6,
    zoom: Annotated[str | None, typer.Option(help="LEFT,TOP,SIDE of a square to enlarge, as shares.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array instead of tables.")] = False,
) -> None:
    """Evaluations side by side: a table for each protocol, with published figures apart."""
    with waiting_for("nothing was lost; the same command begins again") as waiting:
        from e2ed2.reports import compare as comparing
        from e2ed2.reports.compare_page import write_comparison
        from e2ed2.reports.grids import parse_zoom

        square = parse_zoom(zoom)
        waiting("comparing", 0, 0)
        tables = comparing.compare(evaluations, baseline=baseline, metrics=metric or [])
        if out is not None:
            for path in write_comparison(tables, out, num_prompts=num_prompts, zoom=square):
                waiting.say(str(path))
    if as_json:
        print(json.dumps(comparing.to_json(tables)))
    else:
        print(harmless(comparing.markdown(tables)), end="")
