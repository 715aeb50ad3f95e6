"""`e2ed2 study`: its verbs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from e2ed2.commands.shared import Interrupted, waiting_for
from e2ed2.system.errors import harmless

CREATE_EXAMPLES = (
    "[dim]Examples[/dim]\n\n"
    "e2ed2 study create emoji-lcm emoji-e2ed2 --out study --num-prompts 40 --num-raters 6\n\n"
    "e2ed2 study create runs/before runs/after --out study --group artist=3 --group layperson=7"
)
SERVE_EXAMPLES = "[dim]Examples[/dim]\n\ne2ed2 study serve study\n\ne2ed2 study serve study --port 8080 --host 0.0.0.0"
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

study = typer.Typer(
    help="The human study: blind comparisons in pairs in the browser, and what they show.", no_args_is_help=True
)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A study's folder.", show_default=False)]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        help="postgresql://USER:PASSWORD@HOST/NAME", show_default="SQLite in DIR", envvar="E2ED2_DATABASE_URL"
    ),
]


@study.command(epilog=CREATE_EXAMPLES)
def create(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="A B...", show_default=False,
            help="Folders that `evaluate --out` or `sample` wrote; or models, which are then sampled.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The study's folder.", show_default=False)],
    num_prompts: Annotated[int | None, typer.Option(help="Pairs a criterion.", show_default="all, up to 300")] = None,
    num_raters: Annotated[int | None, typer.Option(help="Raters.", show_default="10, or those of the groups")] = None,
    group: Annotated[list[str] | None, typer.Option(help="NAME=COUNT raters; repeat for more.")] = None,
    seed: Annotated[int, typer.Option(help="Fixes prompts, orders and sides.")] = 0,
    protocol: Annotated[str, typer.Option(help="Whose prompts models are asked.")] = "emoji",
    categories: Annotated[Path | None, typer.Option(help="CSV file of columns prompt, category.")] = None,
) -> None:  # fmt: skip
    """Set a study up: pairs of matched images, links for the raters, a password for you."""
    with waiting_for(f"no study was made in {out}; the same command begins again") as waiting:
        import e2ed2.emoji.protocols  # noqa: F401 - adds its protocols
        from e2ed2.study.create import create_study
        from e2ed2.study.groups import raters_by_group

        password = create_study(
            models, out, num_prompts=num_prompts, groups=raters_by_group(group or [], num_raters), seed=seed,
            protocol=protocol, categories=categories, watch=waiting,
        )  # fmt: skip
    print(f"links of the raters: {out / 'links.csv'}\nyour password, shown this once: {password}")
    print(f"next: e2ed2 study serve {out}")


@study.command(epilog=SERVE_EXAMPLES)
def serve(
    folder: Folder,
    port: Annotated[int, typer.Option(help="0 takes any that is free.")] = 8000,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in.")] = "127.0.0.1",
    database_url: DatabaseUrl = None,
) -> None:
    """Serve a study until Ctrl-C. Again, it goes on: no vote is lost."""
    from e2ed2.study.app.serve import serve as run

    try:
        run(folder, host=host, port=port, database_url=database_url, say=lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        raise Interrupted(f"every vote is kept; `e2ed2 study serve {folder}` goes on") from None


@study.command(epilog=ANALYZE_EXAMPLES)
def analyze(
    votes: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="A study's folder, or votes that it exported as .csv or .parquet."),
    ],
    baseline: Annotated[str | None, typer.Option(help="The model that others win or lose against.")] = None,
    database_url: DatabaseUrl = None,
    out: Annotated[Path | None, typer.Option(help="Where all of it goes.", show_default="analysis, beside")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Win, tie and loss by criterion with intervals; agreement, checks, time. A page, Figure 6, a LaTeX table."""
    folder = out or (votes if votes.is_dir() else votes.parent) / "analysis"
    with waiting_for("nothing was lost; the same command begins again", loads_models=False) as waiting:
        from e2ed2.study.analysis.analyze import analyze as analyzed
        from e2ed2.study.analysis.report import write_report
        from e2ed2.study.analysis.tables import markdown
        from e2ed2.study.export import read_any_votes

        waiting("analyzing", 0, 0)
        found = analyzed(read_any_votes(votes, database_url), baseline)
        for path in write_report(found, str(votes), folder):
            waiting.say(str(path))
    print(json.dumps(found.to_json()) if as_json else harmless(markdown(found)), end="\n" if as_json else "")


@study.command(epilog=POWER_EXAMPLES)
def power(
    preference: Annotated[float, typer.Option(help="Of the better model: wins and half of the ties.")] = 0.6,
    ties: Annotated[float, typer.Option(help="Share of votes for neither.")] = 0.2,
    rater_share: Annotated[float, typer.Option(help="Of a vote's variance, between raters; a report has it.")] = 0.05,
    prompt_share: Annotated[float, typer.Option(help="The same between prompts.")] = 0.15,
) -> None:
    """How often a study would show a preference, by its numbers of raters and of prompts."""
    with waiting_for("nothing was lost; the same command begins again", loads_models=False):
        from e2ed2.study.analysis.power import Assumed, power_table

        table = power_table(Assumed(preference, ties, rater_share, prompt_share), RATERS, PROMPTS)
    print(table, end="")
