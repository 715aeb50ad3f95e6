"""The recipes and suites that come with e2ed2, by name from anywhere: `emoji/e2ed2`, `ablation/table2`."""

import os
from pathlib import Path

from e2ed2.system.errors import MAX_SAID, UserError

PACKAGE = Path(__file__).parents[1]
FOLDERS = (PACKAGE / "recipes", PACKAGE.parent / "recipes")  # when installed, and in a checkout

KINDS = {"ablation": "suite", "curation": "pipeline"}  # by folder; all else is a recipe
VERBS = {"recipe": "train", "suite": "ablate", "pipeline": "curate"}


def recipe_file(given: Path, kind: str = "recipe") -> Path:
    """A file that exists is itself; otherwise the shipped one of that name.

    Args:
        given: a path, or a name with or without `recipes/` before it and `.yaml` behind. kind: for the message.
    Raises:
        UserError: neither a path that exists nor a name.
    """
    if os.path.isfile(given):  # unlike Path's, these take any text
        return given
    relative = given.relative_to("recipes") if given.is_relative_to("recipes") else given
    name, shipped = relative.as_posix().removesuffix(".yaml"), shipped_recipes()
    known = {key: file for key, file in shipped.items() if _kind(file) == kind}
    if name in known:
        return known[name]
    if os.path.exists(given):  # a folder, which the reader refuses
        return given
    if name in shipped:
        other = _kind(shipped[name])
        raise UserError(f"{kind} {given}: is a {other}: `e2ed2 {VERBS[other]} {name}`")
    names, shown = ", ".join(known), str(given)[:MAX_SAID]
    raise UserError(f"{kind} {shown}: no such file, and none of that name ships: give a file, or one of {names}")


def _kind(file: Path) -> str:
    return KINDS.get(file.parent.name, "recipe")


def shipped_recipes() -> dict[str, Path]:
    """name -> file."""
    for folder in FOLDERS:
        if files := sorted(folder.rglob("*.yaml")):
            return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
    raise UserError(f"recipes: none in {FOLDERS[0]}; reinstall e2ed2")
