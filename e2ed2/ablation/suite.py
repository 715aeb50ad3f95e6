"""Suites: the rows of a table, what each trains and how all are measured.

A suite is a YAML file; its recipe is relative to it:

    recipe: ../emoji/e2ed2.yaml          # what every row trains
    fields: {train.max_train_steps: 200} # changes for every row
    protocol: emoji
    num_images: 512
    steps: [4, 2, 1]
    seeds: [0, 1, 2]
    baseline: L2                         # training cost is relative to this row
    rows:
      start: {model: emoji-lcm}          # measured only
      L2: {objective.l2.weight: 1}       # field: value
    quick: {seeds: [0], num_images: 128} # what --quick changes of the above; `rows: [L2]` names those to keep,
                                         # and its fields count after a row's own
"""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from e2ed2.emoji.protocols import emoji_protocol_names
from e2ed2.recipe.config import MAX_INFERENCE_STEPS
from e2ed2.recipe.fields import Count, CountOrZero
from e2ed2.recipe.load import flatten
from e2ed2.sampling.samples import MAX_SEED
from e2ed2.system.errors import UserError
from e2ed2.system.yaml_file import read_yaml

FILES = ("suite.yaml", "table.md", "figure.svg")  # beside the rows' folders
FOLDER_NAME = re.compile(r"[^.\\\x00-\x1f][^\\\x00-\x1f]{,59}")
SET_HERE = {"train.seed": "the suite's seeds", "run.dir": "--out"}


def _not_set_here(fields: dict[str, Any]) -> dict[str, Any]:
    for field in flatten(fields).keys() & SET_HERE.keys():
        raise ValueError(f"{field} is set by {SET_HERE[field]}: leave it out")
    return fields


Fields = Annotated[dict[str, Any], AfterValidator(_not_set_here)]
Seeds = Annotated[list[Annotated[CountOrZero, Field(le=MAX_SEED)]], Field(min_length=1)]
Steps = Annotated[list[Annotated[Count, Field(le=MAX_INFERENCE_STEPS)]], Field(min_length=1)]


class Suite(BaseModel):
    """The rows of one table, and how each is trained and measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: Path
    fields: Fields = {}
    protocol: str = "emoji"
    num_images: Count | None = None
    steps: Steps = [4]
    seeds: Seeds = [0]
    baseline: str | None = None
    rows: Annotated[dict[str, Fields], Field(min_length=1)]


class Quick(BaseModel):
    """What `--quick` changes of a suite: what is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: Annotated[list[str], Field(min_length=1)] = []
    fields: Fields = {}
    num_images: Count | None = None
    steps: Steps = [4]
    seeds: Seeds = [0]


def load_suite(path: Path, quick: bool = False) -> Suite:
    """A suite file; `quick` applies its own `quick` section.

    Raises:
        UserError: unreadable file, unknown field, wrong type, a key given twice, a baseline that is no row, a row
            that cannot be a folder or sets what the suite does, or no quick size.
    """
    values = read_yaml(path, "suite", "recipes/ablation/")
    if not isinstance(values, dict):
        raise UserError(f"suite {path}: expected fields such as 'rows', found {type(values).__name__}")
    if quick and not isinstance(values.get("quick"), dict):
        raise UserError(f"suite {path}: has no section 'quick'; leave --quick out")
    small = values.pop("quick", None)
    try:
        suite = Suite.model_validate(values)
        if quick:
            suite = _shrunk(suite, Quick.model_validate(small), path)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(["quick"] * (error.title == "Quick") + [str(part) for part in first["loc"]])
        raise UserError(f"suite {path}: {field}: {first['msg'].removeprefix('Value error, ')}") from error
    _check(suite, path)
    return suite.model_copy(update={"recipe": path.parent / suite.recipe})


def _check(suite: Suite, path: Path) -> None:
    """What no field can tell alone; raises UserError."""
    if suite.baseline is not None and suite.baseline not in suite.rows:
        raise UserError(f"suite {path}: baseline: {suite.baseline}, but the rows are {', '.join(suite.rows)}")
    for name, given in (("seeds", suite.seeds), ("steps", suite.steps)):
        if len(set(given)) < len(given):
            raise UserError(f"suite {path}: {name}: {given}, but each can be measured once: remove the others")
    for row in suite.rows:
        if not FOLDER_NAME.fullmatch(folder_name(row)) or folder_name(row) in FILES:
            raise UserError(
                f"suite {path}: rows: {row!r} cannot be a folder among {', '.join(FILES)}: name it in 1-60 letters, "
                "no backslash among them and no dot first"
            )
        if len(alike := [other for other in suite.rows if folder_name(other) == folder_name(row)]) > 1:
            both = " and ".join(alike)
            raise UserError(f"suite {path}: rows: {both} would share the folder {folder_name(row)}; rename one")
    if suite.protocol not in (names := emoji_protocol_names()):
        raise UserError(f"suite {path}: protocol: {suite.protocol}, but there are {', '.join(names)}")


def _shrunk(suite: Suite, quick: Quick, path: Path) -> Suite:
    """The quick size: its rows, each with its fields after the row's own."""
    for row in quick.rows:
        if row not in suite.rows:
            raise UserError(f"suite {path}: quick.rows: {row}, but the rows are {', '.join(suite.rows)}")
    rows = {name: suite.rows[name] for name in quick.rows or suite.rows}
    rows = {name: row if is_measured_only(row) else row | quick.fields for name, row in rows.items()}
    return suite.model_copy(update=quick.model_dump(exclude_unset=True, exclude={"fields"}) | {"rows": rows})


def is_measured_only(fields: dict[str, Any]) -> bool:
    return set(fields) == {"model"}


def folder_name(row: str) -> str:
    return row.replace("/", "_").replace(" ", "_")
