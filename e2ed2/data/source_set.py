"""Sets whose items are at hand in any order, on disk: scanned once, and decoded whenever they are asked for."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from e2ed2.data.batch import ImageTextSet, Picture, spread
from e2ed2.data.buckets import Shape, nearest_shape
from e2ed2.data.decoding import Progress, check_share, decode_item, scan
from e2ed2.data.items import RawItem, SkippedItem, Source
from e2ed2.system.errors import UserError

Item = TypeVar("Item", Picture, RawItem)


class SourceSet:
    """Items of one or several sources.

    Args:
        sources: name -> where the items are.
        weights: of the sources; with one source there are none.
        shapes: that images are fitted to, the square first.
        max_bad_fraction: share of unusable items, 0 to 1, above which a source is refused.
        say: told of every item that is skipped.
    Attributes:
        buckets: number [N] of each item's shape, None when there is one shape.
        sides: height and width of each item as it was found.
        parts: (number of items, weight) of each source, as `ShuffledOrder` takes them; empty for one source.
    Raises:
        UserError: no item usable, or too many bad ones; the notes (`error.__notes__`) list every bad item.
    """

    def __init__(
        self,
        sources: Sequence[tuple[str, Source]],
        weights: Sequence[float],
        shapes: Sequence[Shape],
        max_bad_fraction: float,
        num_workers: int,
        say: Callable[[str], None] = lambda line: None,
        progress: Progress | None = None,
    ):
        self._sources, self._shapes, self.size = [source for _, source in sources], shapes, shapes[0][0]
        self._pool = ThreadPoolExecutor(num_workers)
        self.skipped, self.sides, places, buckets, counts = [], [], [], [], []
        for number, (name, source) in enumerate(sources):
            sides, bad = scan(source, num_workers, progress)
            skipped = [*source.skipped, *bad]
            check_share(skipped, len(skipped), len(source) + len(source.skipped), max_bad_fraction, name)
            usable = [(row, nearest_shape(*side, shapes)) for row, side in enumerate(sides) if side is not None]
            self.sides += [side for side in sides if side is not None]
            places += [(number, row) for row, _ in usable]
            buckets += [bucket for _, bucket in usable]
            counts.append(len(usable))
            self.skipped += skipped
        for item in self.skipped:
            say(f"skipped {item}")
        self._places, self._fitted = torch.tensor(places), torch.tensor(buckets)
        self._ahead: deque[tuple[Tensor, list[Future[Picture | SkippedItem]]]] = deque(maxlen=2)  # this batch, the next
        self.buckets = self._fitted if len(shapes) > 1 else None
        self.parts = list(zip(counts, weights, strict=True)) if len(sources) > 1 else []

    def __len__(self) -> int:
        return len(self._places)

    def pictures(self, rows: Tensor) -> list[Picture]:
        """The items `rows` [B].

        Raises:
            UserError: one can no longer be decoded.
        """
        begun = [decoding for other, decoding in self._ahead if torch.equal(rows, other)]
        decoding = begun[0] if begun else self._decoding(rows)
        return [_usable(future.result()) for future in decoding]

    def read_ahead(self, rows: Tensor) -> None:
        """Begin to decode the items `rows` [B], which `pictures` will be asked for."""
        self._ahead.append((rows, self._decoding(rows)))

    def _decoding(self, rows: Tensor) -> list[Future[Picture | SkippedItem]]:
        return [self._pool.submit(self._decode, i) for i in rows.tolist()]

    def _decode(self, i: int) -> Picture | SkippedItem:
        """Fitted to the shape of its batch, whatever the file is by now."""
        number, row = self._places[i].tolist()
        return decode_item(self._sources[number][row], [self._shapes[int(self._fitted[i])]])

    def preview(self, count: int) -> list[Picture]:
        """At most `count` items of the commonest shape, spread over the set."""
        rows = torch.arange(len(self))
        if self.buckets is not None:
            rows = torch.nonzero(self.buckets == self.buckets.mode().values).flatten()
        return self.pictures(rows[spread(len(rows), count)])

    def first_captions(self, rows: Tensor | None = None) -> list[str]:
        """Of the items `rows` [B], or of all; a table reads its items whole for that."""
        places = self._places if rows is None else self._places[rows]
        return [_usable(self._sources[number][row]).captions[0] for number, row in places.tolist()]

    @property
    def by_default(self) -> list[bool] | None:
        """Of each item whether it was given the default caption; None where no source has one."""
        defaults = [source.default_caption for source in self._sources]
        if all(default is None for default in defaults):
            return None
        places = self._places.tolist()
        return [defaults[n] is not None and self._sources[n].is_by_default(row) for n, row in places]

    def fingerprint(self) -> str:
        """Changes with the data."""
        return " ".join(source.fingerprint() for source in self._sources)

    def in_memory(self) -> ImageTextSet | None:
        """Everything decoded, None where an item has another shape, several captions or a weight."""
        if self.buckets is not None or self.parts:
            return None
        pictures = self.pictures(torch.arange(len(self)))
        if any(len(picture.captions) > 1 for picture in pictures):
            return None
        return ImageTextSet(
            torch.stack([picture.image for picture in pictures]),
            [picture.captions[0] for picture in pictures],
            [picture.key for picture in pictures],
            skipped=self.skipped,
            micro=torch.tensor([picture.micro for picture in pictures]),
            by_default=self.by_default,
        )


def _usable(item: Item | SkippedItem) -> Item:
    if isinstance(item, SkippedItem):
        raise UserError(f"data: {item}; it was usable when training began: bring it back")
    return item
