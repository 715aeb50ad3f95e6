"""`e2ed2 ablate`."""

from pathlib import Path
from typing import Annotated

import typer

from e2ed2.commands.shared import waiting_for

EXAMPLES = (
    "[dim]Examples[/dim]\n\n"
    "e2ed2 ablate recipes/ablation/table2.yaml\n\n"
    "e2ed2 ablate recipes/ablation/table2.yaml --quick --out runs/ablation/try"
)


def ablate(
    suite: Annotated[
        Path, typer.Argument(metavar="SUITE", help="A YAML file, or a shipped one: ablation/ours.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="Where all of it goes.", show_default="runs/ablation/NAME")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The suite's small size, minutes on a CPU.")] = False,
) -> None:
    """Train and measure every row of a suite over its seeds: one table. What is done is not done again."""
    folder = out or Path("runs/ablation") / (suite.stem + ("-quick" if quick else ""))
    with waiting_for(f"what was done is in {folder}; the same command goes on") as waiting:
        from e2ed2.ablation.run import run_suite
        from e2ed2.ablation.suite import load_suite

        text = run_suite(load_suite(suite, quick), folder, say=waiting.say, watch=waiting, tick=waiting.tick)
    print(text, end="")
