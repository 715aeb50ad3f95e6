"""`e2ed2 precompute`."""

from pathlib import Path
from typing import Annotated

import typer

from e2ed2.commands.shared import Overrides, Recipe, join_others, waiting_for

EXAMPLES = (
    "[dim]Examples[/dim]\n\n"
    "e2ed2 precompute recipe.yaml data.source=folder data.path=photos --out photos-cache\n\n"
    "e2ed2 train recipe.yaml data.source=cache data.path=photos-cache"
)


def precompute(
    recipe: Recipe,
    out: Annotated[Path, typer.Option(help="The cache's folder.", show_default=False)],
    overrides: Overrides = None,
) -> None:
    """Encode a recipe's images and captions once, for any number of trainings. Again after a kill, it goes on."""
    from e2ed2.recipe.load import load_config

    join_others()
    config = load_config(recipe, overrides)
    with waiting_for(f"what was encoded is in {out}; the same command goes on") as waiting:
        from e2ed2.training.latents.precompute import precompute as run

        waiting("preparing", 0, 0)
        run(config, out, waiting.say, waiting)
    print(f"cache: {out}\ntrain on it with: data.source=cache data.path={out}")
