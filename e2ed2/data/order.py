"""Which items a batch holds: a function of (seed, position), so that a resumed run goes on with the same."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor


class Order(Protocol):
    """Batch after batch of rows."""

    def rows(self, position: int) -> Tensor:
        """Rows [B] of batch number `position`; called once for each, in order."""

    def random_rows(self, generator: torch.Generator) -> Tensor:
        """Any rows [B] that can be one batch."""

    def state(self) -> dict[str, object] | None:
        """What has to be saved to go on after the last batch, plain numbers and texts; None: nothing."""


class ShuffledOrder:
    """A set whose items are all at hand: every epoch is a permutation of its own.

    Args:
        size: rows of a batch.
        buckets: number [N] of each item's shape. A batch is then of one bucket, an epoch a whole number of batches, and
            a bucket's last one is filled up with its first items.
        parts: (number of items, weight) of sources that follow each other: they are drawn in proportion to the weights,
            each in permutations of its own, and an epoch is N draws.
        read_ahead: told with every batch of the one that comes `stride` positions later.
    """

    def __init__(
        self,
        seed: int,
        num_items: int,
        size: int,
        buckets: Tensor | None = None,
        parts: Sequence[tuple[int, float]] = (),
        read_ahead: Callable[[Tensor], None] = lambda rows: None,
        stride: int = 1,
    ):
        self._seed, self._num_items, self._size = seed, num_items, size
        self._read_ahead, self._stride = read_ahead, stride
        self._buckets = buckets
        self._parts = parts
        self._first_batches = [0]  # number of each epoch's first batch, as far as known
        self._planned: tuple[int, Tensor] | None = None  # epoch, its batches

    def rows(self, position: int) -> Tensor:
        """A function of the seed and the position alone."""
        rows = self._rows(position)
        self._read_ahead(self._rows(position + self._stride))
        return rows

    def _rows(self, position: int) -> Tensor:
        if self._buckets is None and not self._parts:
            return batch_rows(self._seed, self._num_items, position, self._size)
        while self._first_batches[-1] <= position:
            self._first_batches.append(self._first_batches[-1] + len(self._plan(len(self._first_batches) - 1)))
        epoch = next(i for i, first in reversed(list(enumerate(self._first_batches))) if first <= position)
        return self._plan(epoch)[position - self._first_batches[epoch]]

    def random_rows(self, generator: torch.Generator) -> Tensor:
        if self._buckets is None:
            return torch.randint(self._num_items, (self._size,), generator=generator)
        return random_batch(self._buckets, self._size, generator)

    def state(self) -> None:
        return None

    def _plan(self, epoch: int) -> Tensor:
        """The batches [n, size] of an epoch."""
        if self._planned is None or self._planned[0] != epoch:
            buckets = torch.zeros(self._num_items, dtype=torch.long) if self._buckets is None else self._buckets
            rows = self._epoch(epoch)
            self._planned = epoch, bucket_batches(rows, buckets[rows], self._size, mix(self._seed, -1 - epoch))
        return self._planned[1]

    def _epoch(self, epoch: int) -> Tensor:
        if not self._parts:
            return _permutation(self._seed, self._num_items, epoch)
        rows, first, sum_of_weights = [], 0, sum(weight for _, weight in self._parts)
        for number, (num_items, weight) in enumerate(self._parts):
            draws = max(1, round(self._num_items * weight / sum_of_weights))
            rows.append(first + batch_rows(mix(self._seed, number), num_items, epoch, draws))
            first += num_items
        return torch.cat(rows)


def batch_rows(seed: int, num_items: int, position: int, size: int) -> Tensor:
    """Rows [size] of batch number `position`: every epoch is a permutation of its own; batches span epochs."""
    rows: list[int] = []
    start = position * size
    while len(rows) < size:
        epoch, offset = divmod(start + len(rows), num_items)
        rows += _permutation(seed, num_items, epoch)[offset : offset + size - len(rows)].tolist()
    return torch.tensor(rows)


@lru_cache(maxsize=4)  # sorting ten million numbers takes a second
def _permutation(seed: int, num_items: int, epoch: int) -> Tensor:
    return torch.randperm(num_items, generator=torch.Generator().manual_seed(mix(seed, -1 - epoch)))


def bucket_batches(rows: Tensor, buckets: Tensor, size: int, seed: int) -> Tensor:
    """All `rows` [N] in batches [n, size] of one bucket each, shuffled.

    Args:
        rows: in the order in which a bucket's rows are to follow each other.
        buckets: [N], of the rows.
    """
    batches = []
    for bucket in buckets.unique().tolist():
        members = rows[buckets == bucket]
        count = -(-len(members) // size) * size
        batches.append(members[torch.arange(count) % len(members)].view(-1, size))
    all_batches = torch.cat(batches)
    return all_batches[torch.randperm(len(all_batches), generator=torch.Generator().manual_seed(mix(seed, 0)))]


def random_batch(buckets: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Rows [size] of one bucket, a bucket being as likely as it is large."""
    bucket = buckets[torch.randint(len(buckets), (1,), generator=generator)]
    members = torch.nonzero(buckets == bucket).flatten()
    return members[torch.randint(len(members), (size,), generator=generator)]


def mix(seed: int, index: int) -> int:
    """One 63-bit seed from two numbers (an odd multiplier, then the splitmix64 finaliser)."""
    x = (seed * 0x9E3779B97F4A7C15 + index * 0xD1B54A32D192ED03 + 0x2545F4914F6CDD1D) & (2**64 - 1)
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (x ^ (x >> 31)) >> 1
