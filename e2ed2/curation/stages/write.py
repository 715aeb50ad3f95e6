"""What was selected, as tar shards that training reads: image, caption, and a JSON of where both came from."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from e2ed2.curation.items import Item
from e2ed2.data.sources.shards import write_tar
from e2ed2.system.errors import said

NAME = "write"
ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp", "GIF": "gif"}
OTHER = "img"  # of formats whose ending is no usual column
TOLD = ("id", "source", "licence", "original_caption", "captioner", "score", "width", "height", "sha256")


def write(items: Sequence[Item], path: Path, first: int) -> None:
    """One shard; an item whose image is gone meanwhile is dropped.

    Args:
        first: number of the first item among all that were selected, which names it.
    Raises:
        UserError: the disk is full or refuses.
    """
    write_tar(path, _members(items, first))


def _members(items: Sequence[Item], first: int) -> Iterator[tuple[str, bytes]]:
    for number, item in enumerate(items, first):
        try:
            image = item.read()
        except OSError as error:
            item.drop(NAME, f"image cannot be read again: {said(error)}")
            continue
        about = {name: getattr(item, name) for name in TOLD}
        key = f"{number:09d}"
        yield f"{key}.{ENDINGS.get(item.format or '', OTHER)}", image
        yield f"{key}.json", json.dumps(about, ensure_ascii=False).encode()
        yield f"{key}.txt", item.caption.encode()
