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

A row's results lie in a folder of its name: letters A-Z, digits, `_`, `-` and `.` as they are, every run of other
characters a `-`, none of `-` and `.` at either end. `K=2,time_grid=learned` is in `K-2-time_grid-learned`.
"""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, JsonValue

from e2ed2.evaluation.evaluate import MAX_SEED
from e2ed2.recipe.config import MAX_INFERENCE_STEPS
from e2ed2.recipe.fields import Count, CountOrZero
from e2ed2.recipe.load import flatten
from e2ed2.recipe.shipped import recipe_file
from e2ed2.system.errors import UserError
from e2ed2.system.readers.typed import Part, checked
from e2ed2.system.readers.yaml_file import read_yaml

FILES = ("suite.yaml", "table.md", "figure.svg")  # beside the rows' folders
MAX_FOLDER_NAME = 60
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # Windows keeps these names for itself
SET_HERE = {"train.seed": "the suite's seeds", "run.dir": "--out"}


def _not_set_here(fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
    for field in flatten(fields).keys() & SET_HERE.keys():
        raise ValueError(f"{field} is set by {SET_HERE[field]}: leave it out")
    return fields


def _names_a_model(fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if is_measured_only(fields) and not isinstance(fields["model"], str):
        raise ValueError("model: a row of nothing else is measured only, and names a model")
    return fields


def _have_folders(rows: dict[str, dict[str, JsonValue]]) -> dict[str, dict[str, JsonValue]]:
    rows_in: dict[str, str] = {}
    for row in rows:
        name = folder_name(row)
        is_free = name.lower() not in FILES and not DEVICES.fullmatch(name)
        if not 1 <= len(name) <= MAX_FOLDER_NAME or not is_free or not row.isprintable():
            raise ValueError(
                f"{row!r} cannot be a folder among {', '.join(FILES)}: name it in 1-{MAX_FOLDER_NAME} letters and "
                "digits, not as Windows names a device"
            )
        other = rows_in.setdefault(name.lower(), row)  # some disks do not tell capitals apart
        if other != row:
            raise ValueError(f"{other} and {row} would share the folder {name}; rename one")
    return rows


Fields = Annotated[dict[str, JsonValue], AfterValidator(_not_set_here)]
Row = Annotated[Fields, AfterValidator(_names_a_model)]
Seeds = Annotated[list[Annotated[CountOrZero, Field(le=MAX_SEED)]], Field(min_length=1)]
Steps = Annotated[list[Annotated[Count, Field(le=MAX_INFERENCE_STEPS)]], Field(min_length=1)]


class Quick(Part):
    """What `--quick` changes of a suite: what is given."""

    rows: Annotated[list[str], Field(min_length=1)] = []
    fields: Fields = {}
    num_images: Count | None = None
    steps: Steps = [4]
    seeds: Seeds = [0]


class Suite(Part):
    """The rows of one table, and how each is trained and measured."""

    recipe: Path
    fields: Fields = {}
    protocol: str = "emoji"
    num_images: Count | None = None
    steps: Steps = [4]
    seeds: Seeds = [0]
    baseline: str | None = None
    rows: Annotated[dict[str, Row], Field(min_length=1), AfterValidator(_have_folders)]
    quick: Annotated[Quick | None, Field(exclude=True)] = None


def load_suite(path: Path, quick: bool = False) -> Suite:
    """A suite file, or a shipped one by its name; `quick` applies its own `quick` section.

    Raises:
        UserError: unreadable file, unknown field, wrong type, a key given twice, a baseline that is no row, a row
            that cannot be a folder or sets what the suite does, or no quick size.
    """
    path = recipe_file(path, "suite")
    suite = checked(Suite, read_yaml(path, "suite", "recipes/ablation/"), f"suite {path}")
    if quick:
        if suite.quick is None:
            raise UserError(f"suite {path}: has no section 'quick'; leave --quick out")
        suite = _shrunk(suite, suite.quick, path)
    _check(suite, path)
    return suite.model_copy(update={"recipe": path.parent / suite.recipe})


def _check(suite: Suite, path: Path) -> None:
    """What no field can tell alone; raises UserError."""
    if suite.baseline is not None and suite.baseline not in suite.rows:
        raise UserError(f"suite {path}: baseline: {suite.baseline}, but the rows are {', '.join(suite.rows)}")
    for name, given in (("seeds", suite.seeds), ("steps", suite.steps)):
        if len(set(given)) < len(given):
            raise UserError(f"suite {path}: {name}: {given}, but each can be measured once: remove the others")


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
    """Of a row's results; the rule is told at the top."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", row).strip("-.")
