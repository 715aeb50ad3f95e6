"""The table of votes: one row for each decision that stands, as CSV or parquet.

The study's store gives it, its export writes it, the analysis reads it.
"""

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from e2ed2.system.errors import UserError, said
from e2ed2.system.readers.text import read_bytes, read_text
from e2ed2.system.readers.typed import Part, checked

CRITERIA = ("alignment", "faithfulness", "quality")  # Table 3
REMEDY = "give a file that a study's export wrote"

Name = Annotated[str, Field(min_length=1)]


def _utc(value: Any) -> datetime:
    """A time from ISO text, in UTC."""
    with suppress(ValueError):
        time = datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(time, datetime) and time.tzinfo:
            return time.astimezone(UTC)
    raise ValueError("must be an ISO time with its offset, 2026-01-31T12:00:00+00:00")


class Vote(Part):
    """What one rater decided of one pair by one criterion.

    Attributes:
        pair: its id. kind: `main` pairs count; `practice` ones never do; `repeat` shows a main pair again; `check` has
            a right answer.
        repeat_of: the pair that a repeat shows again; empty for all others.
        category: of the prompt; empty where the study has none.
        left, right: the models, by the side that they were shown on.
        expected: the right answer of a check; empty for all others.
        seconds: from the pair's showing to the decision. revised: how often the rater changed it.
        decided_at: of the decision that stands.
    """

    rater: Name
    group: str
    criterion: Literal["alignment", "faithfulness", "quality"]
    pair: Name
    kind: Literal["practice", "main", "repeat", "check"]
    repeat_of: str
    prompt: str
    category: str
    left: Name
    right: Name
    choice: Literal["left", "right", "none"]
    expected: Literal["left", "right", ""]
    seconds: Annotated[float, Field(ge=0)]
    revised: Annotated[int, Field(ge=0)]
    decided_at: Annotated[datetime, BeforeValidator(_utc)]

    @field_validator("repeat_of", "expected")
    @classmethod
    def _fits_its_kind(cls, value: str, info: ValidationInfo) -> str:
        owner = {"repeat_of": "repeat", "expected": "check"}[str(info.field_name)]
        kind = info.data.get("kind", owner)
        if bool(value) != (kind == owner):
            raise ValueError(f"a {owner} needs one" if kind == owner else f"must be empty for a vote of kind {kind}")
        return value

    @field_validator("right")
    @classmethod
    def _is_another(cls, value: str, info: ValidationInfo) -> str:
        if value == info.data.get("left") and info.data.get("kind") != "check":
            raise ValueError("must be another model than left")
        return value


COLUMNS = tuple(Vote.model_fields)


def to_csv(votes: Iterable[Vote]) -> bytes:
    """The table as a CSV file: UTF-8, a head of `COLUMNS`, times in UTC."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(_cells(vote).values() for vote in votes)
    return text.getvalue().encode()


def to_parquet(votes: Iterable[Vote]) -> bytes:
    """The table as a parquet file of the same columns; `seconds` and `revised` are numbers, all else is text."""
    import pyarrow
    import pyarrow.parquet

    kinds = {"seconds": pyarrow.float64(), "revised": pyarrow.int64()}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in COLUMNS])
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([_cells(vote) for vote in votes], schema), sink)
    return sink.getvalue()


def read_votes(path: Path) -> list[Vote]:
    """The votes of a `.csv` or `.parquet` file, none from one with a head alone.

    Raises:
        UserError: a file that cannot be read, a column too few or too many, a value that is not allowed, or rows that
            contradict each other; one line that names file, row, column and value.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"votes {path}: must be a .csv or .parquet file; {REMEDY}")
    rows = _csv_rows(path) if path.suffix == ".csv" else _parquet_rows(path)
    votes, places = [], []
    for place, cells in rows:
        votes.append(checked(Vote, cells, f"votes {path}, {place}", REMEDY))
        places.append(place)
    check_votes(votes, lambda i: f"votes {path}, {places[i]}")
    return votes


def check_votes(votes: Sequence[Vote], where: Callable[[int], str]) -> None:
    """Raise UserError where rows contradict each other; `where(i)` begins the message on row i."""
    decided: set[tuple[str, str, str]] = set()
    groups: dict[str, str] = {}
    pairs: dict[str, tuple[object, ...]] = {}
    for i, vote in enumerate(votes):
        key = (vote.rater, vote.criterion, vote.pair)
        if key in decided:
            raise UserError(
                f"{where(i)}: pair '{vote.pair}': rater {vote.rater} decided it by {vote.criterion} in a row before; "
                "only the decision that stands may be there"
            )
        decided.add(key)
        if (group := groups.setdefault(vote.rater, vote.group)) != vote.group:
            raise UserError(f"{where(i)}: group '{vote.group}': rater {vote.rater} was of group '{group}' before")
        shown = (vote.kind, vote.prompt, vote.category, frozenset((vote.left, vote.right)), vote.repeat_of)
        if pairs.setdefault(vote.pair, shown) != shown:
            raise UserError(
                f"{where(i)}: pair '{vote.pair}': has another kind, prompt, category, repeat_of or other models than "
                "in a row before"
            )


def _cells(vote: Vote) -> dict[str, Any]:
    """A row's values by column, plain."""
    return {**vote.model_dump(), "decided_at": vote.decided_at.isoformat()}


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(Where a row is, its values by column) of a CSV file."""
    reader = csv.reader(io.StringIO(read_text(path, "votes", REMEDY), newline=""), strict=True)
    try:
        _check_columns(path, head := next(reader, []))
        ended = reader.line_num
        for cells in reader:
            place, ended = f"line {ended + 1}", reader.line_num  # a prompt may go over several
            if cells and len(cells) != len(head):
                raise UserError(f"votes {path}, {place}: {len(cells)} values for {len(head)} columns; {REMEDY}")
            if cells:
                yield place, dict(zip(head, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"votes {path}, line {reader.line_num}: {said(error)}; {REMEDY}") from error


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """As `_csv_rows`, of a parquet file; a null is an empty text."""
    import pyarrow
    import pyarrow.parquet

    content = read_bytes(path, "votes", REMEDY)
    try:
        table = pyarrow.parquet.read_table(pyarrow.BufferReader(content))
        rows = table.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(f"votes {path}: not readable as parquet ({said(error)}); {REMEDY}") from error
    _check_columns(path, table.column_names)
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", {name: "" if value is None else value for name, value in row.items()}


def _check_columns(path: Path, found: Sequence[str]) -> None:
    missing = [name for name in COLUMNS if name not in found]
    unknown = [name for name in found if name not in COLUMNS]
    twice = [name for name in COLUMNS if list(found).count(name) > 1]
    for names, what in ((missing, "is missing"), (unknown, "is unknown"), (twice, "is there twice")):
        if names:
            raise UserError(f"votes {path}: column '{names[0]}' {what}; must be {','.join(COLUMNS)}; {REMEDY}")
