"""`e2ed2 curate`."""

from pathlib import Path
from typing import Annotated

import typer

from e2ed2.commands.shared import Overrides, waiting_for

EXAMPLES = (
    "[dim]Examples[/dim]\n\n"
    "e2ed2 curate curation/folder input.path=photos output.path=curated\n\n"
    "e2ed2 curate curation/coyo input.path='coyo/*.parquet' output.path=curated select.count=120000"
)


def curate(
    pipeline: Annotated[
        Path,
        typer.Argument(metavar="PIPELINE", help="A YAML file, or a shipped one: curation/folder.", show_default=False),
    ],
    overrides: Overrides = None,
) -> None:
    """Choose and caption training images: shards, a manifest of every row, a report. The same command again resumes."""
    with waiting_for("what was done is kept; the same command goes on") as waiting:
        from e2ed2.curation.pipeline import load_pipeline
        from e2ed2.curation.run import curate as run

        asked = load_pipeline(pipeline, overrides or [])
        funnel = run(asked, waiting)
    for stage, count in funnel.dropped.items():
        print(f"{stage}: {count:,} dropped")
    out = asked.output.path
    print(f"{funnel.kept:,} of {funnel.read:,} kept\nshards: {out / 'shards'}\nreport: {out / 'report.html'}")
