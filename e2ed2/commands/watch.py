"""`e2ed2 watch`."""

from pathlib import Path
from typing import Annotated

import typer

from e2ed2.commands.shared import Interrupted

EXAMPLES = "[dim]Examples[/dim]\n\ne2ed2 watch\n\ne2ed2 watch runs/ablation --port 9000"


def watch(
    runs: Annotated[
        Path, typer.Argument(metavar="[RUNS]", help="The folder that your runs are in, or one run.")
    ] = Path("runs"),
    port: Annotated[int, typer.Option(help="0 takes any that is free.")] = 8765,
) -> None:
    """All runs of a folder on one local page: looked at while they train, compared, tried, started.

    Only this machine reaches it, by the address that is printed. Ctrl-C ends the page and no training.
    """
    from e2ed2.web.app.serve import serve

    try:
        serve(runs, port=port, say=lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        raise Interrupted("trainings go on; `e2ed2 watch` shows them again") from None
