"""What data sources hand over: captioned images, not yet decoded, and what had to be left out. Without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from e2ed2.system.errors import one_line


@dataclass(frozen=True)
class SkippedItem:
    """An item that cannot be used, and why. `path` is the file at fault, `metadata.jsonl:7` for a bad row."""

    path: Path | str
    reason: str

    def __str__(self) -> str:
        return one_line(f"{self.path}: {self.reason}")


@dataclass(frozen=True)
class RawItem:
    """A captioned image, not yet decoded.

    Attributes:
        key: a unique and stable name; for a folder the path relative to it, `cats/tom.png`.
        image: the file, or its bytes.
        captions: one or more, one line each, never empty.
        place: the file that an error names.
        by_default: whether it has no caption of its own and was given the default one.
    """

    key: str
    image: Path | bytes
    captions: tuple[str, ...]
    place: Path | str
    by_default: bool = False


class Source(Protocol):
    """Raw items by row.

    Attributes:
        skipped: what its listing already had to leave out.
        default_caption: of items that have none, None where those are skipped.
    """

    skipped: list[SkippedItem]
    default_caption: str | None

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> RawItem | SkippedItem: ...

    def is_by_default(self, row: int) -> bool:
        """Whether a usable item was given the default caption; its image is not read."""

    def fingerprint(self) -> str:
        """Changes with the data."""
