"""Every recipe is valid as it stands."""

from pathlib import Path

import pytest

from e2ed2.recipe.load import load_config

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = [path for name in ("", "emoji", "today") for path in (FOLDER / name).glob("*.yaml")]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid(path):
    assert load_config(path).run.dir


def test_a_head_says_what_it_was_run_on_and_what_it_takes():
    heads = [path.read_text().split("stage:")[0] for path in FOLDER.glob("*.yaml") if path.stem != "demo"]
    said = ("Not run on such hardware by us", "`e2ed2 plan` counts: ", " GiB a card", " PFLOP an update", " h in all")
    assert heads and all(words in head.replace("\n# ", " ") for head in heads for words in said)
