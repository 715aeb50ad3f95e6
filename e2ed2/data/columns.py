"""Which columns or fields of a row hold the image and its captions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2ed2.data.batch import RawItem
from e2ed2.system.errors import UserError

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
    """

    image: str | None = None
    caption: str | None = None
    caption_per_line: bool = False

    def check(self, names: Iterable[str], where: object) -> None:
        """Raise UserError when rows with the fields `names`, those within JSON as `json.title`, lack a column."""
        names = set(names)
        for kind, wanted, usual in (
            ("image", self.image, IMAGE_COLUMNS),
            ("caption", self.caption, (*CAPTION_COLUMNS, *(f"{JSON_COLUMN}.{name}" for name in CAPTION_COLUMNS))),
        ):
            if not names & ({wanted} if wanted else set(usual)):
                missing = f"no column '{wanted}'" if wanted else f"no column of a usual name ({', '.join(usual)})"
                raise UserError(
                    f"data.{kind}_column: {where} has {missing}; it has {', '.join(sorted(names))}: name one of them"
                )

    def item(self, row: Mapping[str, Any], key: str, place: Path | str) -> RawItem:
        """The row's image and captions; ValueError says why it cannot be used."""
        image = _first(row, (self.image,) if self.image else IMAGE_COLUMNS)
        if isinstance(image, dict):  # of Hugging Face datasets
            image = image["bytes"] if image.get("bytes") is not None else Path(image["path"])
        if not isinstance(image, bytes | Path):
            raise ValueError("no image" if image is None else f"image is not bytes but {type(image).__name__}")
        return RawItem(key, image, self.captions(row), place)

    def captions(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The row's captions; ValueError says why there are none."""
        found = _first(row, (self.caption,) if self.caption else CAPTION_COLUMNS)
        json = row.get(JSON_COLUMN)
        if found is None and self.caption is None and isinstance(json, dict):
            found = _first(json, CAPTION_COLUMNS)
        return clean_captions(found, self.caption_per_line)


def clean_captions(value: object, per_line: bool = False) -> tuple[str, ...]:
    """A text, or a list of several, as captions; line breaks and runs of blanks in one become single blanks.

    Raises:
        ValueError: there is none; the message says why.
    """
    if value is None or value == []:
        raise ValueError("no caption")
    texts: list[str] = []
    for text in value if isinstance(value, list | tuple) else [value]:
        try:
            text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        except UnicodeDecodeError:
            raise ValueError("caption is not UTF-8 text") from None
        if not isinstance(text, str):
            raise ValueError(f"caption is not text but {type(text).__name__}")
        texts += text.splitlines() if per_line else [text]
    captions = tuple(caption for caption in (" ".join(text.split()) for text in texts) if caption)
    if not captions:
        raise ValueError("caption is empty")
    return captions


def _first(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    """The first of these fields that the row has; `json.title` looks into `json`."""
    for name in names:
        outer, _, inner = name.partition(".")
        if row.get(name) is not None:
            return row[name]
        if inner and isinstance(row.get(outer), dict) and row[outer].get(inner) is not None:
            return row[outer][inner]
    return None
