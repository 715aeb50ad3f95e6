"""`e2ed2 demo`."""

from pathlib import Path
from typing import Annotated

import typer

from e2ed2.commands.shared import waiting_for

EXAMPLES = (
    "[dim]Examples[/dim]\n\ne2ed2 demo\n\ne2ed2 demo --style\n\ne2ed2 demo --out runs/short train.max_train_steps=50"
)


def demo(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FIELD=VALUE]...", help="Fields of the demo's recipe to change.", show_default=False),
    ] = None,
    style: Annotated[
        bool, typer.Option("--style", help="Teach a bundled few-step model a new style from a folder of images.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="The run folder.", show_default="runs/demo, with --style runs/style")
    ] = None,
    num_images: Annotated[
        int | None, typer.Option(help="Images of each evaluation.", show_default="512, with --style 256")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Measure every row here, the shipped ones too.")] = False,
) -> None:
    """Fine-tune the bundled 4-step emoji model end to end, measure it before and after, and write a report.

    Takes a few minutes on a CPU. Again after Ctrl-C it goes on where it stopped.
    """
    if style and full:
        raise typer.BadParameter("--full measures the rows of the demo without --style: leave one of them out.")
    out = out or Path("runs") / ("style" if style else "demo")
    with waiting_for(f"what was done is in {out}; the same command goes on") as waiting:
        if style:
            from e2ed2.demo.style import run_style as run

            number, rest = 256, {}
        else:
            from e2ed2.demo.run import run_demo as run

            number, rest = 512, {"full": full}
        rows = run(
            out, overrides or [], num_images=num_images or number, say=waiting.say, watch=waiting, tick=waiting.tick,
            **rest,
        )  # fmt: skip
    from e2ed2.reports.table import print_comparison

    print_comparison(rows)
    model = out / "finetuned" / "model" if style else out / "model"
    print(f"\nmodel:  {model}\nreport: {out / 'report.html'}")
