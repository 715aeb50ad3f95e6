"""A folder of images, with captions or without, as training reads it: one fragment."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from e2ed2.curation.pipeline import InputConfig
from e2ed2.curation.sources.row import NO_CAPTION_YET, Row
from e2ed2.data.items import RawItem, SkippedItem
from e2ed2.data.sources.folder import FolderSource
from e2ed2.system.errors import one_line


def fragments(asked: InputConfig) -> list[str]:
    """The folder itself, with how many files it has and a digest of what they are, so that a changed folder is another.

    Raises:
        UserError: it is no folder, or holds no images.
    """
    source = FolderSource(Path(asked.path), NO_CAPTION_YET)
    unread = sorted(str(item.path) for item in source.skipped)
    digest = hashlib.sha256(repr((source.fingerprint(), unread)).encode()).hexdigest()
    return [f"{asked.path} ({len(source) + len(unread)} images, files {digest[:12]})"]


def columns(asked: InputConfig) -> tuple[list[str], str]:
    """No names, as a row of a folder has nothing to filter by; and the folder."""
    return [], asked.path


def rows(fragment: str, asked: InputConfig) -> Iterator[Row]:
    """Every image by its path, then what cannot be used."""
    folder = Path(asked.path)
    source = FolderSource(folder, NO_CAPTION_YET)
    read: list[RawItem | SkippedItem] = [*(source[row] for row in range(len(source))), *source.skipped]
    for item in sorted(read, key=lambda item: _id(item, folder)):
        name = _id(item, folder)
        domain = name.partition("/")[0] if "/" in name else None
        if isinstance(item, SkippedItem):
            yield Row(name, str(item.path), domain=domain, problem=one_line(item.reason))
        else:
            yield Row(name, str(item.place), caption=item.captions[0], file=str(item.image), domain=domain)


def _id(item: RawItem | SkippedItem, folder: Path) -> str:
    if isinstance(item, RawItem):
        return item.key
    path = Path(item.path)
    return one_line(path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path)
