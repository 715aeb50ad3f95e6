"""Streams: sets too large to list, read in order, a window of them at a time in memory and shuffled."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Protocol

import torch
from pydantic import Field
from torch import Tensor

from e2ed2.data.batch import Picture
from e2ed2.data.buckets import Shape
from e2ed2.data.decoding import check_share, decode_item
from e2ed2.data.items import RawItem, SkippedItem
from e2ed2.data.order import bucket_batches, mix, random_batch
from e2ed2.data.sources.tables import Shard
from e2ed2.system.errors import UserError
from e2ed2.system.readers.typed import Record, checked

State = dict[str, Any]
Number = Annotated[int, Field(ge=0, lt=2**63)]
NOTHING = "data.path: the shards hold no item for this process; give more items or fewer processes"
SAVED = ("the saved place in the data", "begin anew, or take another checkpoint")


class Place(Record):
    """Where a stream of shards is."""

    epoch: Number
    shard: Number
    item: Number


class MixedPlace(Record):
    """Where a mixture of streams is."""

    count: Number
    streams: list[Place]


class SetPlace(Record):
    """Where a set is: how its stream was before the window, the next batch, and how many items were seen until then."""

    stream: State
    window: Number
    batch: Number
    seen: Number
    skipped: Number


class Stream(Protocol):
    """Raw items in order; iterating goes on where `state` is, to the end of an epoch if it has one."""

    state: State

    def __iter__(self) -> Iterator[RawItem | SkippedItem]: ...


class ShardStream:
    """Shard after shard, in an order of its own each epoch.

    Several processes share the shards, or where there are too few the items of each.

    Args:
        seed: of the orders; None: the order of their names.
    """

    def __init__(self, shards: Sequence[Shard], seed: int | None = None, rank: int = 0, num_processes: int = 1):
        self._shards, self._seed, self._rank, self._num_processes = shards, seed, rank, num_processes
        self._state: State = {"epoch": 0, "shard": 0, "item": 0}

    @property
    def state(self) -> State:
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = checked(Place, state, *SAVED).model_dump()

    def __iter__(self) -> Iterator[RawItem | SkippedItem]:
        epoch, rank, num_processes = self._state["epoch"], self._rank, self._num_processes
        order, shares_items = self._order(epoch), len(self._shards) < num_processes
        if not shares_items:
            order = order[rank::num_processes]
        for number in range(self._state["shard"], len(order)):
            first = self._state["item"] if number == self._state["shard"] else 0
            for i, item in enumerate(self._shards[order[number]](first), start=first):
                self._state = {"epoch": epoch, "shard": number, "item": i + 1}
                if not shares_items or i % num_processes == rank:
                    yield item
        self._state = {"epoch": epoch + 1, "shard": 0, "item": 0}

    def _order(self, epoch: int) -> list[int]:
        if self._seed is None:
            return list(range(len(self._shards)))
        generator = torch.Generator().manual_seed(mix(self._seed, -1 - epoch))
        return torch.randperm(len(self._shards), generator=generator).tolist()


class MixedStream:
    """Streams drawn from in proportion to their weights, without an end."""

    def __init__(self, streams: Sequence[Stream], weights: Sequence[float], seed: int):
        self._streams, self._weights, self._seed = streams, torch.tensor(weights, dtype=torch.float64), seed
        self._count = 0

    @property
    def state(self) -> State:
        return {"count": self._count, "streams": [stream.state for stream in self._streams]}

    @state.setter
    def state(self, state: State) -> None:
        place = checked(MixedPlace, state, *SAVED)
        if len(place.streams) != len(self._streams):
            raise UserError(f"{SAVED[0]}: {len(place.streams)} streams, but there are {len(self._streams)}; {SAVED[1]}")
        self._count = place.count
        for stream, inner in zip(self._streams, place.streams, strict=True):
            stream.state = inner.model_dump()

    def __iter__(self) -> Iterator[RawItem | SkippedItem]:
        items = [endless(stream) for stream in self._streams]
        while True:
            generator = torch.Generator().manual_seed(mix(self._seed, self._count))
            number = int(torch.multinomial(self._weights, 1, generator=generator))
            self._count += 1
            yield next(items[number])


def endless(stream: Stream) -> Iterator[RawItem | SkippedItem]:
    """Epoch after epoch; UserError when there is nothing in two of them (the first may have been at its end)."""
    num_empty = 0
    while num_empty < 2:
        num_empty += 1
        for item in stream:
            num_empty = 0
            yield item
    raise UserError(NOTHING)


@dataclass(frozen=True)
class _Window:
    """Decoded items, and the state of the stream before them."""

    state: State
    pictures: list[Picture]
    skipped: list[SkippedItem]


class StreamSet:
    """The training set of a stream, and the order it is trained in.

    The next `window_size` items are read and decoded while those before them are trained on, in batches of one shape,
    in an order that is a function of the seed and the window's number. A window ends where an epoch does, and what the
    one before it holds is not decoded again: a small set is decoded once. What a checkpoint keeps is where the window
    began and which batch is next.

    Args:
        open_stream: (seed, rank, number of processes) -> the stream; without a seed in the order of the shards.
        shapes: that images are fitted to, the square first.
        say: told of every item that is skipped.
    """

    def __init__(
        self,
        open_stream: Callable[[int | None, int, int], Stream],
        shapes: Sequence[Shape],
        window_size: int,
        max_bad_fraction: float,
        num_workers: int,
        say: Callable[[str], None],
    ):
        self._open, self._shapes, self._window_size = open_stream, shapes, window_size
        self._max_bad_fraction, self._say = max_bad_fraction, say
        self._decoders, self._reader = ThreadPoolExecutor(num_workers), ThreadPoolExecutor(1)
        self._decoded: dict[Any, Picture | SkippedItem] = {}  # the last items that were read
        self._previews: dict[int, list[Picture]] = {}
        self.size = shapes[0][0]

    def begin(self, seed: int, batch_size: int, rank: int, num_processes: int, state: State | None) -> None:
        """Open the stream that this process trains on, and go on where `state` was taken."""
        self._stream = self._open(seed, rank, num_processes)
        self._seed, self._batch_size = mix(seed, rank), batch_size
        state = state or {"stream": self._stream.state, "window": 0, "batch": 0, "seen": 0, "skipped": 0}
        place = checked(SetPlace, state, *SAVED)
        self._stream.state = place.stream
        self._items = iter(self._stream)
        self._counts = (place.seen, place.skipped)
        self._next = self._read_next()
        self._number, self._batch = place.window, place.batch
        self._take()
        if self._batch > len(self._batches):
            raise UserError(f"{SAVED[0]}: batch {self._batch} of {len(self._batches)}: the data are others; {SAVED[1]}")

    def rows(self, position: int) -> Tensor:
        """The next rows [B] of the window, or of the next window."""
        if self._batch == len(self._batches):
            self._number, self._batch = self._number + 1, 0
            self._take()
        self._batch += 1
        return self._batches[self._batch - 1]

    def random_rows(self, generator: torch.Generator) -> Tensor:
        return random_batch(self._buckets, self._batch_size, generator)

    def state(self) -> State:
        seen, skipped = self._counts_before
        return {
            "stream": self._window.state, "window": self._number, "batch": self._batch, "seen": seen, "skipped": skipped
        }  # fmt: skip

    def pictures(self, rows: Tensor) -> list[Picture]:
        """The items `rows` [B] of the present window."""
        return [self._window.pictures[row] for row in rows.tolist()]

    def preview(self, count: int) -> list[Picture]:
        """At most `count` items of one shape from the beginning of the stream, read once."""
        if count in self._previews:
            return self._previews[count]
        stream = self._open(None, 0, 1)
        window = self._read(stream, iter(stream), 4 * count)
        if not window.pictures:
            check_share(window.skipped, len(window.skipped), len(window.skipped), 0.0, "the stream")
        most = Counter(picture.image.shape for picture in window.pictures).most_common(1)[0][0]
        self._previews[count] = [picture for picture in window.pictures if picture.image.shape == most][:count]
        return self._previews[count]

    def windows(self, size: int, state: State | None) -> Iterator[tuple[list[Picture], State]]:
        """One epoch in the order of the shards, from `state` on: `size` items less bad ones, and the state after."""
        stream = self._open(None, 0, 1)
        stream.state = state or stream.state
        items = iter(stream) if stream.state["epoch"] == 0 else iter(())
        counts = (0, 0)
        while (window := self._read(stream, items, size)).pictures or window.skipped:
            counts = self._judge(window, counts)
            yield window.pictures, stream.state

    def _read_next(self) -> "Future[_Window]":
        return self._reader.submit(self._read_on)

    def _read_on(self) -> _Window:
        """What is left of the epoch, `window_size` items at most, or the beginning of the next one."""
        for _ in range(3):  # one may be at its end, and one empty
            window = self._read(self._stream, self._items, self._window_size)
            num_items = len(window.pictures) + len(window.skipped)
            if num_items < self._window_size:
                self._items = iter(self._stream)
            if num_items:
                return window
        raise UserError(NOTHING)

    def _take(self) -> None:
        """The window that was read in the meantime becomes the present one."""
        self._window, self._counts_before = self._next.result(), self._counts
        self._next = self._read_next()
        self._counts = self._judge(self._window, self._counts)
        pictures = self._window.pictures
        if not pictures:  # none of them is usable, as few as they are
            return self._take()
        numbers = [self._shapes.index((picture.image.shape[1], picture.image.shape[2])) for picture in pictures]
        self._buckets = torch.tensor(numbers)
        seed = mix(self._seed, self._number)
        order = torch.randperm(len(self._buckets), generator=torch.Generator().manual_seed(seed))
        self._batches = bucket_batches(order, self._buckets[order], self._batch_size, seed)

    def _judge(self, window: _Window, counts: tuple[int, int]) -> tuple[int, int]:
        """(Seen, skipped) with the window's; what is skipped is said, and too much of it stops the run."""
        for item in window.skipped:
            self._say(f"skipped {item}")
        seen, skipped = counts[0] + len(window.pictures) + len(window.skipped), counts[1] + len(window.skipped)
        check_share(window.skipped, skipped, seen, self._max_bad_fraction, "the stream")
        return seen, skipped

    def _read(self, stream: Stream, items: Iterator[RawItem | SkippedItem], size: int) -> _Window:
        state, raw = stream.state, list(islice(items, size))
        decoded = list(self._decoders.map(self._decode, raw))
        self._decoded = dict(zip(map(_content, raw), decoded, strict=True))
        pictures = [item for item in decoded if isinstance(item, Picture)]
        return _Window(state, pictures, [item for item in decoded if isinstance(item, SkippedItem)])

    def _decode(self, item: RawItem | SkippedItem) -> Picture | SkippedItem:
        return self._decoded.get(_content(item)) or decode_item(item, self._shapes)


def _content(item: RawItem | SkippedItem) -> Any:
    """What tells an item from all others."""
    return (item.key, item.captions, hash(item.image)) if isinstance(item, RawItem) else item
