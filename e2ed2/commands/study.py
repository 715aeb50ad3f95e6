"""`e2ed2 study`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from e2ed2.commands.shared import waiting_for

study = typer.Typer(help="The human study: blind comparisons in pairs, and what they show.", no_args_is_help=True)

ANALYZE_EXAMPLES = (
    "[dim]Examples[/dim]\n\n"
    "e2ed2 study analyze runs/study --baseline emoji-lcm\n\n"
    "e2ed2 study analyze votes.csv --out runs/figures"
)
POWER_EXAMPLES = (
    "[dim]Examples[/dim]\n\n"
    "e2ed2 study power --preference 0.6\n\n"
    "e2ed2 study power --preference 0.55 --rater-share 0.04 --prompt-share 0.11"
)
RATERS, PROMPTS = (3, 5, 10, 20, 40), (20, 40, 100, 300)


@study.command(epilog=ANALYZE_EXAMPLES)
def analyze(
    votes: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A study's folder, or votes that it exported as .csv or .parquet."),
    ],
    baseline: Annotated[str | None, typer.Option(help="The model that others win or lose against.")] = None,
    out: Annotated[Path | None, typer.Option(help="Where all of it goes.", show_default="analysis, beside")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Win, tie and loss by criterion with intervals; agreement, checks, time. A page, Figure 6, a LaTeX table."""
    folder = out or (votes if votes.is_dir() else votes.parent) / "analysis"
    with waiting_for("nothing was lost; the same command begins again") as waiting:
        from e2ed2.study.analysis.analyze import analyze as analyzed
        from e2ed2.study.analysis.report import write_report
        from e2ed2.study.analysis.tables import markdown
        from e2ed2.study.votes import read_votes

        waiting("analyzing", 0, 0)
        found = analyzed(read_votes(votes / "votes.csv" if votes.is_dir() else votes), baseline)
        for path in write_report(found, str(votes), folder):
            waiting.say(str(path))
    print(json.dumps(found.to_json()) if as_json else markdown(found), end="\n" if as_json else "")


@study.command(epilog=POWER_EXAMPLES)
def power(
    preference: Annotated[float, typer.Option(help="Of the better model: wins and half of the ties.")] = 0.6,
    ties: Annotated[float, typer.Option(help="Share of votes for neither.")] = 0.2,
    rater_share: Annotated[float, typer.Option(help="Of a vote's variance, between raters; a report has it.")] = 0.05,
    prompt_share: Annotated[float, typer.Option(help="The same between prompts.")] = 0.15,
) -> None:
    """How often a study would show a preference, by its numbers of raters and of prompts."""
    with waiting_for("nothing was lost; the same command begins again"):
        from e2ed2.study.analysis.power import Assumed, power_table

        table = power_table(Assumed(preference, ties, rater_share, prompt_share), RATERS, PROMPTS)
    print(table, end="")
