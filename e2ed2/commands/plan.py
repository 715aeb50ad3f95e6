"""`e2ed2 plan`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from e2ed2.commands.shared import waiting_for

EXAMPLES = (
    "[dim]Examples[/dim]\n\n"
    "e2ed2 plan recipes/pixart_delta.yaml\n\n"
    "e2ed2 plan recipes/sdxl_lora.yaml train.max_train_steps=2000 --gpu 'RTX 4090' --num-gpus 1 --json"
)


def plan(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, or a shipped one.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="FIELD=VALUE...", help="As of `train`.", show_default=False)
    ] = None,
    gpu: Annotated[list[str] | None, typer.Option(help="A card; repeat for more.", show_default="all known")] = None,
    num_gpus: Annotated[list[int] | None, typer.Option(help="Repeat for more.", min=1, show_default="1, 8, 64")] = None,
    cards: Annotated[Path | None, typer.Option(help="A table of cards in place of the one that ships.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """Memory, time and cost of a recipe before any GPU is booked: counted, without weights, network or GPU.

    Each row has the quickest setting that fits the card; the update stays the recipe's.
    """
    with waiting_for("nothing was lost; the same command begins again") as waiting:
        from e2ed2.plan.plan import NUM_GPUS, read_cards
        from e2ed2.plan.plan import plan as run
        from e2ed2.plan.table import text
        from e2ed2.recipe.load import load_config

        known = read_cards(cards, gpu or [])
        config = load_config(recipe, overrides)
        planned = run(config, known, num_gpus or NUM_GPUS, waiting)
    if as_json:
        print(json.dumps([row.row() for row in planned]))
    else:
        print(text(planned, recipe), end="")
