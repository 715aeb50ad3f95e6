"""What a source gives: rows in an order that the input alone decides, fragment by fragment."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from e2ed2.curation.pipeline import InputColumns
from e2ed2.data.sources.columns import CAPTION_COLUMNS, IMAGE_COLUMNS, Columns
from e2ed2.system.errors import UserError, one_line

USUAL = {
    "id": ("id", "key", "SAMPLE_ID"),
    "url": ("url", "URL", "image_url"),
    "image": IMAGE_COLUMNS,
    "caption": (*CAPTION_COLUMNS, "TEXT"),
    "score": ("aesthetic_score_laion_v2", "AESTHETIC_SCORE", "aesthetic_score", "aesthetic"),
    "licence": ("licence", "license", "LICENSE"),
}
NO_CAPTION_YET = Columns(default="")  # captions as training reads them; one that is missing is empty


@dataclass(slots=True)
class Row:
    """One row as it was read.

    Attributes:
        id, source: as in `Item`; a source that is not local is an address to be asked. fields: all of its columns.
        caption: the first of several. image: bytes that have no file of their own; file, offset, size: else where they
            are. domain: whose quota it counts towards. problem: why it cannot be used, found while reading.
    """

    id: str
    source: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    caption: str = ""
    image: bytes | None = None
    file: str | None = None
    offset: int = 0
    size: int = -1
    domain: str | None = None
    problem: str | None = None


def check_named(named: InputColumns, names: Iterable[str], where: str) -> None:
    """Raise UserError where a column that the pipeline names is not there; the message lists those that are."""
    known = set(names)
    for kind in USUAL:
        if (wanted := getattr(named, kind)) is not None:
            check_column(f"input.columns.{kind}", wanted, known, where)


def check_column(field: str, name: str, known: Iterable[str], where: str) -> None:
    """Raise UserError where a column is not there, with those that are."""
    if name not in set(known):
        has = ", ".join(sorted(known)) or "none"
        raise UserError(f"{field}: no column '{name}' in {where}; it has {has}: name one of them")


def pick(named: InputColumns, fields: Collection[str], kind: str) -> str | None:
    """The column of this kind: as the pipeline names it, or the first of the usual names that there is."""
    wanted = getattr(named, kind)
    return next((name for name in ((wanted,) if wanted else USUAL[kind]) if name in fields), None)


def value_of(named: InputColumns, fields: Mapping[str, Any], kind: str) -> Any:
    """What a row has in its column of this kind; None where there is no such column."""
    return fields.get(pick(named, fields, kind) or "")


def caption_of(value: object) -> tuple[str, str | None]:
    """(The first caption, or none, and why it cannot be read)."""
    try:
        return NO_CAPTION_YET.captions_of(value)[0][0], None
    except ValueError as error:
        return "", one_line(error)


def domain_of(url: object) -> str | None:
    """The host of an address."""
    try:
        return urlsplit(url).hostname if isinstance(url, str) else None
    except ValueError:
        return None
