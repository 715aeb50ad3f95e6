"""`e2ed2 study`: its verbs `create` and `serve`."""

from pathlib import Path
from typing import Annotated

import typer

from e2ed2.commands.shared import waiting_for

EXAMPLES = (
    "[dim]Examples[/dim]\n\n"
    "e2ed2 study create emoji-lcm emoji-e2ed2 --out study --num-prompts 40 --num-raters 6\n\n"
    "e2ed2 study create runs/before runs/after --out study --group artist=3 --group layperson=7\n\n"
    "e2ed2 study serve study"
)

study = typer.Typer(
    help="The human study: blind pairwise comparison in the browser.", epilog=EXAMPLES, no_args_is_help=True
)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A study's folder.", show_default=False)]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        help="postgresql://USER:PASSWORD@HOST/NAME", show_default="SQLite in DIR", envvar="E2ED2_DATABASE_URL"
    ),
]


@study.command()
def create(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="A B...", show_default=False,
            help="Folders that `evaluate --out` or `sample` wrote; or models, which are then sampled.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The study's folder.", show_default=False)],
    num_prompts: Annotated[int | None, typer.Option(help="Pairs by each criterion.", show_default="all, up to 300")] = None,
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


@study.command()
def serve(
    folder: Folder,
    port: Annotated[int, typer.Option(help="0 takes any that is free.")] = 8000,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in.")] = "127.0.0.1",
    database_url: DatabaseUrl = None,
) -> None:
    """Serve a study until Ctrl-C. Again, it goes on: no vote is lost."""
    from e2ed2.commands.shared import Interrupted
    from e2ed2.study.app.serve import serve as run

    try:
        run(folder, host=host, port=port, database_url=database_url, say=lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        raise Interrupted(f"every vote is kept; `e2ed2 study serve {folder}` goes on") from None
