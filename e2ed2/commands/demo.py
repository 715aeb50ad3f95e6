"""`e2ed2 demo`."""

from pathlib import Path
from typing import Annotated

import typer

from e2ed2.commands.shared import waiting_for

EXAMPLES = "[dim]Examples[/dim]\n\ne2ed2 demo\n\ne2ed2 demo --out runs/short train.max_train_steps=50"


def demo(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FIELD=VALUE]...", help="Fields of recipes/demo.yaml to change.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="The run folder.")] = Path("runs/demo"),
    num_images: Annotated[int, typer.Option(help="Images of each evaluation.")] = 512,
    full: Annotated[bool, typer.Option("--full", help="Measure every row here, the shipped ones too.")] = False,
) -> None:
    """Fine-tune the bundled 4-step emoji model end to end, measure it before and after, and write a report.

    Takes a few minutes on a CPU. Again after Ctrl-C it goes on where it stopped.
    """
    with waiting_for(f"what was done is in {out}; the same command goes on") as waiting:
        from e2ed2.demo.run import run_demo

        rows = run_demo(
            out, overrides or [], num_images=num_images, full=full, say=waiting.say, watch=waiting, tick=waiting.tick
        )
    from e2ed2.reports.table import print_comparison

    print_comparison(rows)
    print(f"\nmodel:  {out / 'model'}\nreport: {out / 'report.html'}")
