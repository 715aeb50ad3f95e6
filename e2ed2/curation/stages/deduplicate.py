"""Copies among all rows: those of the same bytes, and those whose hashes differ in few bits.

Rows meet where they share a key: of their bytes, or of one band of a hash. Keys go to buckets, as many as keep each
small, whatever the number of rows. A row goes where a better one is near it; better is the larger image, then the one
of the higher score. That one may itself go for a third: so nothing depends on the order in which rows meet, and of a
chain of near copies only the best stay.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from e2ed2.curation.hashes import MIRROR, NUM_BANDS, Bits, band_keys, distances
from e2ed2.curation.pipeline import HASH_BITS

SAME_BYTES, NEAR_LOOKS, NEAR_MEANING = "the same bytes as ", "nearly the same as ", "a meaning near that of "
MOST_COMPARED = 256  # the best of a key, with which its others are compared
FIRST_EXACT = 2**32  # keys of bytes; those of bands are smaller
HASH_BYTES = HASH_BITS // 8
ORDER = 32  # bytes: of the image's size, and of its rank, which ends in its number


@dataclass(frozen=True)
class Likeness:
    """By what rows are copies of each other.

    Attributes:
        step: which drops them. hash: the column of their hashes, of `length` bytes. reason: begins that of those whose
            hashes are near.
        mirror: bits that differ in a mirrored image's hash. by_bytes: whether the same bytes are looked for as well.
    """

    step: str
    hash: str
    length: int
    reason: str
    mirror: Bits
    by_bytes: bool


LOOKS = Likeness("deduplicate", "perceptual_hash", HASH_BYTES + 3, NEAR_LOOKS, MIRROR, True)
MEANING = Likeness("similar", "embedding_hash", HASH_BYTES, NEAR_MEANING, np.zeros_like(MIRROR), False)
COLUMNS = ("id", "sha256", "width", "height", "rank")  # read beside the hash


def keyed(rows: pa.Table, likeness: Likeness, is_near: bool) -> pa.RecordBatch:
    """Every key of every row: `key`, `hash` (of an exact key the digest), `order` (sorts before a worse row's), `id`.

    Args:
        rows: `COLUMNS` and the hash. is_near: whether hashes count.
    """
    rows = rows.filter(pc.field(likeness.hash).is_valid())
    hashes, digests = _bits(rows[likeness.hash], likeness.length), _digits(rows["sha256"], 32)[:, :HASH_BYTES]
    keys, values = [], []
    if likeness.by_bytes:
        keys.append(FIRST_EXACT + digests[:, :4].copy().view(np.uint32).astype(np.int64))
        values.append(np.pad(digests, ((0, 0), (0, likeness.length - HASH_BYTES))))
    if is_near:
        bands = band_keys(hashes, likeness.mirror)
        keys += [*bands.T[:, :, None]]
        values += [hashes] * NUM_BANDS
    row = np.tile(np.arange(len(hashes)), len(keys))
    orders = _orders(rows)
    return pa.RecordBatch.from_pydict(
        {
            "key": np.concatenate(keys).ravel(),
            "hash": _binary(np.concatenate(values)),
            "order": _binary(orders[row]),
            "id": rows["id"].combine_chunks().take(row),
        }
    )


def num_buckets(num_rows: int, keys_a_bucket: int) -> int:
    """Odd, so that bits that are never set leave none empty."""
    return num_rows * (NUM_BANDS + 1) // keys_a_bucket | 1


def pairs(keys: pa.Table, max_distance: int, mirror: Bits) -> pa.RecordBatch:
    """Which row goes for which: `number`, `near`, `order` and `id` of the better one.

    Args:
        keys: as `keyed` gives them, all that are equal among them.
    """
    keys = keys.sort_by([("key", "ascending"), ("order", "ascending")]).combine_chunks()
    key, orders = keys["key"].to_numpy(), _bits(keys["order"], ORDER)
    hashes = _bits(keys["hash"], keys.schema.field("hash").type.byte_width)
    exact = key >= FIRST_EXACT
    worse, better = _worse(key, hashes, np.where(exact, 0, max_distance), mirror)
    return pa.RecordBatch.from_pydict(
        {
            "number": _numbers(orders[worse]),
            "near": ~exact[worse],
            "order": _binary(orders[better]),
            "id": keys["id"].combine_chunks().take(better),
        }
    )


def _worse(
    keys: NDArray[np.int64], hashes: Bits, most: NDArray[np.int64], mirror: Bits
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places of rows that have a better one near, and of the best such; rows are sorted by key, then the better first.

    Every row is compared with the best of its key at once, those left with the second, and so on.
    """
    starts = np.searchsorted(keys, keys)
    place = np.arange(len(keys)) - starts
    better, left = np.full(len(keys), -1), np.flatnonzero(place > 0)
    for number in range(MOST_COMPARED):
        left = left[place[left] > number]
        if not len(left):
            break
        near = distances(hashes[left], hashes[starts[left] + number], mirror) <= most[left]
        better[left[near]] = starts[left[near]] + number
        left = left[~near]
    worse = np.flatnonzero(better >= 0)
    return worse, better[worse]


def losses(found: pa.Table, likeness: Likeness) -> pa.Table:
    """`number`, `keeper` (the number of the one that it goes for), `stage`, `reason` of each row that goes.

    Args:
        found: as `pairs` gives them, all of each row. The same bytes count before near hashes, then the best.
    """
    found = found.sort_by([(name, "ascending") for name in ("number", "near", "order")]).combine_chunks()
    numbers = found["number"].to_numpy()
    found = found.take(np.flatnonzero(np.diff(numbers, prepend=-1)))
    reason = pc.if_else(found["near"], likeness.reason, SAME_BYTES)
    return pa.table(
        {
            "number": found["number"],
            "keeper": _numbers(_bits(found["order"], ORDER)),
            "stage": pa.repeat(likeness.step, len(found)),
            "reason": pc.binary_join_element_wise(reason, found["id"], ""),
        }
    )


def _orders(rows: pa.Table) -> Bits:
    """[N, ORDER]: the larger image first, then by rank."""
    width, height = (rows[side].to_numpy().astype(np.uint64) for side in ("width", "height"))
    areas = (2**63 - width * height).astype(">u8").view(np.uint8).reshape(-1, 8)
    return np.hstack([areas, _digits(rows["rank"], ORDER - 8)])


def _numbers(orders: Bits) -> NDArray[np.int64]:
    return np.ascontiguousarray(orders[:, -8:]).view(">i8").ravel().astype(np.int64)


def _digits(column: pa.ChunkedArray, length: int) -> Bits:
    """[N, length] of hexadecimal digits."""
    return np.frombuffer(bytes.fromhex("".join(column.to_pylist())), np.uint8).reshape(-1, length)


def _bits(column: pa.ChunkedArray, length: int) -> Bits:
    """[N, length] of bytes."""
    values = column.cast(pa.binary(length)).combine_chunks()
    return np.frombuffer(values.buffers()[1], np.uint8)[: len(values) * length].reshape(-1, length)


def _binary(bits: Bits) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(bits.shape[1]), len(bits), [None, pa.py_buffer(np.ascontiguousarray(bits))]
    )
