"""Which columns or fields of a row hold the image and its captions."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2ed2.data.items import RawItem
from e2ed2.system.errors import UserError
from e2ed2.system.readers.text import decode_text, fit_text

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "bmp", "gif", "img")
CAPTION_COLUMNS = ("text", "caption", "captions", "txt", "prompt")
JSON_COLUMN = "json"  # a shard's file of further fields


@dataclass(frozen=True)
class Columns:
    """Names of the columns; None: the first of the usual ones that a row has.

    Attributes:
        image: bytes, or the `{bytes, path}` of Hugging Face datasets.
        caption: a text, or a list of several; `json.title` is a field of a JSON column.
        caption_per_line: every line of a text is a caption of its own.
        default: the caption of images that have none, one line; None: they cannot be used.
    """

    image: str | None = None
    caption: str | None = None
    caption_per_line: bool = False
    default: str | None = field(default=None, repr=False)

    def check(self, names: Iterable[str], where: object) -> None:
        """Raise UserError when rows with the fields `names`, those within JSON as `json.title`, lack a column.

        With a default nothing has to hold captions.
        """
        names = set(names)
        for kind, wanted, usual in (
            ("image", self.image, IMAGE_COLUMNS),
            ("caption", self.caption, (*CAPTION_COLUMNS, *(f"{JSON_COLUMN}.{name}" for name in CAPTION_COLUMNS))),
        ):
            is_needed = kind == "image" or self.default is None
            if is_needed and not names & ({wanted} if wanted else set(usual)):
                missing = f"no column '{wanted}'" if wanted else f"no column of a usual name ({', '.join(usual)})"
                has = ", ".join(sorted(names)) or "none at all"
                raise UserError(f"data.{kind}_column: {where} has {missing}; it has {has}: name one of them")

    def among(self, names: Iterable[str]) -> list[str]:
        """Those of a row's columns that image and captions may be in; nothing else of it has to be readable."""
        names = list(names)
        wanted, captions = {*([self.image] if self.image else IMAGE_COLUMNS)}, self.captions_among(names)
        wanted |= {name.partition(".")[0] for name in wanted}
        return [name for name in names if name in wanted or name in captions]

    def captions_among(self, names: Iterable[str]) -> list[str]:
        """Those of a row's columns that captions may be in."""
        wanted = {self.caption, self.caption.partition(".")[0]} if self.caption else {*CAPTION_COLUMNS, JSON_COLUMN}
        return [name for name in names if name in wanted]

    def item(self, row: Mapping[str, Any], key: str, place: Path | str) -> RawItem:
        """The row's image and captions; ValueError says why it cannot be used."""
        image = _first(row, (self.image,) if self.image else IMAGE_COLUMNS)
        if isinstance(image, dict):  # of Hugging Face datasets
            path, image = image.get("path"), image.get("bytes")
            image = Path(path) if image is None and isinstance(path, str) else image
        if image is None or image == b"":
            raise ValueError("no image")
        if not isinstance(image, bytes | Path):
            raise ValueError(f"image is not bytes but {type(image).__name__}")
        captions, by_default = self.captions(row)
        return RawItem(key, image, captions, place, by_default)

    def captions(self, row: Mapping[str, Any]) -> tuple[tuple[str, ...], bool]:
        """The row's captions as `captions_of` gives them."""
        found = _first(row, (self.caption,) if self.caption else CAPTION_COLUMNS)
        fields = row.get(JSON_COLUMN)
        if found is None and self.caption is None and isinstance(fields, dict):
            found = _first(fields, CAPTION_COLUMNS)
        return self.captions_of(found)

    def captions_of(self, value: object) -> tuple[tuple[str, ...], bool]:
        """(An image's captions, whether it has none and they are the default). None: nothing is said of it.

        Raises:
            ValueError: there is none and no default, or one that cannot be read; the message says why.
        """
        try:
            return clean_captions(value, self.caption_per_line), False
        except NoCaption:
            if self.default is None:
                raise
            return (self.default,), True


class NoCaption(ValueError):
    """A caption is missing or empty; one that cannot be read is not."""


def clean_captions(value: object, per_line: bool = False) -> tuple[str, ...]:
    """A text, or a list of several, as captions; line breaks and runs of blanks in one become single blanks.

    Raises:
        NoCaption: there is none.
        ValueError: one cannot be read; the message says why.
    """
    if value is None or value == []:
        raise NoCaption("no caption")
    texts: list[str] = []
    for text in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(text, str | bytes):
            raise ValueError(f"caption is not text but {type(text).__name__}")
        try:
            text = decode_text(text) if isinstance(text, bytes) else fit_text(text).removeprefix("\ufeff")
        except ValueError as error:
            what = str(error).removeprefix("line 1 ").removeprefix("a text ")
            raise ValueError(f"caption {what}") from None
        texts += text.splitlines() if per_line else [text]
    captions = tuple(caption for caption in (" ".join(text.split()) for text in texts) if caption)
    if not captions:
        raise NoCaption("caption is empty")
    return captions


def parse_fields(text: str | bytes) -> Any:
    """A row's JSON, as it is: only what is asked for has to fit.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _first(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    """The first of these fields that the row has; `json.title` looks into `json`."""
    for name in names:
        outer, _, inner = name.partition(".")
        if row.get(name) is not None:
            return row[name]
        if inner and isinstance(row.get(outer), dict) and row[outer].get(inner) is not None:
            return row[outer][inner]
    return None
