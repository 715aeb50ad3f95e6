"""The `e2ed2` command as Typer builds it."""

import sys
from typing import Annotated

import typer

from e2ed2 import __version__
from e2ed2.commands import (
    ablate,
    compare,
    curate,
    demo,
    evaluate,
    finetune,
    plan,
    precompute,
    sample,
    study,
    train,
    verify,
    watch,
)  # fmt: skip

app = typer.Typer(
    help="Few-step text-to-image generators by end-to-end training of the whole sampler.",
    epilog="Start with: [bold]e2ed2 demo[/bold]",
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (
    finetune.finetune, train.train, precompute.precompute, sample.sample, evaluate.evaluate, compare.compare, demo.demo,
    ablate.ablate, plan.plan, curate.curate, verify.verify, watch.watch,
):  # fmt: skip
    app.command(epilog=sys.modules[verb.__module__].EXAMPLES)(verb)
app.add_typer(study.study, name="study")


def _say_version(is_asked: bool) -> None:
    if is_asked:
        print(f"e2ed2 {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What comes before a verb."""
