"""Images that somebody means to train on: what is found in them, before anything is trained."""

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2ed2.data.batch import spread
from e2ed2.data.decoding import decode_item, scan
from e2ed2.data.items import RawItem, SkippedItem
from e2ed2.data.sources.columns import Columns
from e2ed2.data.sources.folder import FolderSource
from e2ed2.finetune.data import data_fields
from e2ed2.finetune.run import Finetune, choose_finetune
from e2ed2.plan.plan import Planned, plan, read_cards
from e2ed2.reports.previews import webp
from e2ed2.system.drawing.pictures import to_picture
from e2ed2.system.errors import UserError

NUM_SHOWN, NUM_SKIPPED = 12, 20
MOST_SCANNED = 5000  # images that are decoded to see whether they can be; of more the run itself tells
SIDE, WORKERS, MOST_KEPT = 160, 2, 20


@dataclass(frozen=True)
class Looked:
    """What a fine-tune of a model on some data would be.

    Attributes:
        key: of the images on the page. num_images: None of data that are not listed here.
        shown: (number, caption, whether the caption is the default one). skipped: (what, why), the first.
        planned: a row for each card that is known; none of a model whose configs are not here.
    """

    key: str
    chosen: Finetune
    num_images: int | None
    shown: list[tuple[int, str, bool]]
    num_skipped: int
    skipped: list[tuple[str, str]]
    planned: list[Planned]


class ChosenData:
    """Images of folders that were looked at, by numbers: no path of a request meets the disk.

    Args:
        turn: as of `Painter`.
    """

    def __init__(self, turn: threading.Lock) -> None:
        self._turn = turn
        self._images: OrderedDict[str, tuple[Path, dict[int, RawItem]]] = OrderedDict()
        self._busy = threading.Lock()

    def look(
        self, model: str, data: str, out: Path, *, prompt: str | None, steps: int | None, overrides: list[str]
    ) -> Looked:
        """What would be trained, and on what.

        Raises:
            UserError: as `choose_finetune`.
        """
        fields = data_fields(data)
        found, skipped, shown = _found(Path(data), prompt) if fields["source"] == "folder" else (None, [], {})
        with self._turn:
            chosen = choose_finetune(model, data, out, steps=steps, prompt=prompt, overrides=overrides)
            planned = _planned(chosen)
        key = secrets.token_urlsafe(9)
        with self._busy:
            self._images[key] = Path(data), shown
            while len(self._images) > MOST_KEPT:
                self._images.popitem(last=False)
        return Looked(
            key, chosen, found, [(row, item.captions[0], item.by_default) for row, item in shown.items()],
            len(skipped), [(_short(item.path, data), item.reason) for item in skipped[:NUM_SKIPPED]], planned,
        )  # fmt: skip

    def picture(self, key: str, row: int) -> bytes:
        """A small WebP of one of the images that `look` found, cut to a square.

        Raises:
            KeyError: there is none, it is damaged by now, or lies, by a link, outside of the folder.
        """
        folder, items = self._images[key]
        item = items[row]
        if not (isinstance(item.image, Path) and item.image.resolve().is_relative_to(folder.resolve())):
            raise KeyError(item.key)
        found = decode_item(item, [(SIDE, SIDE)])
        if isinstance(found, SkippedItem):
            raise KeyError(item.key)
        return webp(to_picture(found.image), SIDE)


def _found(folder: Path, prompt: str | None) -> tuple[int, list[SkippedItem], dict[int, RawItem]]:
    """Of a folder of images: how many are usable, which are not, and some of them by number."""
    source = FolderSource(folder, Columns(default=prompt))
    skipped = list(source.skipped)
    rows = list(range(len(source)))
    if 0 < len(rows) <= MOST_SCANNED:
        sides, bad = scan(source, WORKERS)
        rows, skipped = [row for row in rows if sides[row] is not None], skipped + bad
    return len(rows), skipped, {rows[i]: source[rows[i]] for i in spread(len(rows), NUM_SHOWN).tolist()}


def _planned(chosen: Finetune) -> list[Planned]:
    try:
        return plan(chosen.config, read_cards(None, []), [1])
    except UserError:  # a model that is not counted
        return []


def _short(path: Any, data: str) -> str:
    """A file's name as somebody who chose the folder knows it."""
    text = str(path)
    return text.removeprefix(data.rstrip("/") + "/")
