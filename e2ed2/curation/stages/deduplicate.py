"""Copies among all rows: those of the same bytes, and those whose hashes differ in few bits.

Rows meet where they share a key: of their bytes, or of one band of a hash. Keys go to as many files as keep each small,
whatever the number of rows, and are joined file by file. A row goes where a better one is near it; better is the larger
image, then the one of the higher score. That one may itself go for a third: so nothing depends on the order in which
rows meet, and of a chain of near copies only the best stay.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import daft
import numpy as np
from daft import DataType, col

from e2ed2.curation.hashes import MIRROR, NUM_BANDS, Bits, band_keys, distances

EXACT, NEAR = 0, 1
SAME_BYTES, NEAR_LOOKS, NEAR_MEANING = "the same bytes as ", "nearly the same as ", "a meaning near that of "
KEYS_A_FILE = 100_000
PIECE = 2**20  # bytes of each file that are held before they are written
MOST_COMPARED = 256  # the best of a key, with which its others are compared
NO_MIRROR = np.zeros_like(MIRROR)  # of hashes of embeddings

KEYS = DataType.list(DataType.struct({"kind": DataType.int8(), "key": DataType.int64(), "hash": DataType.binary()}))
PAIRS = DataType.list(DataType.struct({"number": DataType.int64(), "pair": DataType.binary()}))


def copies(
    rows: daft.DataFrame, folder: Path, num_rows: int, max_distance: int | None, mirror: Bits, near: str
) -> daft.DataFrame:
    """Rows that go: `number`, `keeper` (the number of the one that it goes for), `reason`.

    Args:
        rows: `number`, `id`, `bytes` (their digest) or null, `hash` or null, and `order`, which sorts before that of a
            worse row and ends in its number. folder: for files in between.
        max_distance: in bits; None: only the same bytes. mirror: bits that differ in a mirrored image's hash.
        near: the reason for those whose hashes are near, before the other's id.
    """
    num_files = max(1, -(-num_rows * (NUM_BANDS + 1) // KEYS_A_FILE))
    keyed = (
        rows.with_column("keys", _keys(col("bytes"), col("hash"), max_distance is not None, mirror.tobytes()))
        .explode("keys")
        .select("number", "order", col("keys").unnest())
        .with_column("file", col("key") % num_files)
    )
    with daft.execution_config_ctx(parquet_target_filesize=PIECE, parquet_target_row_group_size=PIECE):
        keyed.write_parquet(str(folder / "keys"), partition_cols=["file"], write_mode="overwrite")
    for number in range(num_files):
        pattern = folder / "keys" / f"file={number}"
        if pattern.exists():
            _joined(daft.read_parquet(f"{pattern}/*.parquet"), max_distance or 0, mirror).write_parquet(
                str(folder / "pairs" / str(number)), write_mode="overwrite"
            )
    found = daft.read_parquet(f"{folder}/pairs/*/*.parquet").groupby("number").agg(col("pair").min())
    named = found.with_column("keeper", _keeper(col("pair")))
    ids = rows.select(col("number").alias("keeper"), col("id"))
    return named.join(ids, on="keeper").select(
        "number", "keeper", _reason(col("pair"), col("id"), near).alias("reason")
    )


@daft.func.batch(return_dtype=KEYS)
def _keys(digests: daft.Series, hashes: daft.Series, is_near: bool, mirror: bytes) -> list[list[dict[str, Any]]]:
    """Of each row the keys that it shares with its copies."""
    every = []
    for digest, bits in zip(digests.to_pylist(), hashes.to_pylist(), strict=True):
        keys = [] if digest is None else [(EXACT, int.from_bytes(digest[:7]), digest)]
        if is_near and bits is not None:
            bands = band_keys(_bits([bits]), np.frombuffer(mirror, np.uint8))[0]
            keys += [(NEAR, key, bits) for key in bands.tolist()]
        every.append([{"kind": kind, "key": key, "hash": value} for kind, key, value in keys])
    return every


def _joined(keyed: daft.DataFrame, max_distance: int, mirror: Bits) -> daft.DataFrame:
    """Of rows that share a key, which goes for which: `number`, and `pair`: the kind, and the order of the other."""
    groups = keyed.groupby("kind", "key").agg(
        col("number").count().alias("count"), col("order").list_agg(), col("hash").list_agg()
    )
    pairs = _pairs(col("kind"), col("order"), col("hash"), max_distance, mirror.tobytes())
    return (
        groups.where(col("count") > 1)
        .select(pairs.alias("pairs"))
        .explode("pairs")
        .select(col("pairs").unnest())
        .where(col("number").not_null())
    )


@daft.func.batch(return_dtype=PAIRS)
def _pairs(
    kinds: daft.Series, orders: daft.Series, hashes: daft.Series, max_distance: int, mirror: bytes
) -> list[list[dict[str, Any]]]:
    groups = zip(*(series.to_pylist() for series in (kinds, orders, hashes)), strict=True)
    found = []
    for kind, order, bits in groups:
        pairs = _worse(order, bits, max_distance if kind == NEAR else 0, np.frombuffer(mirror, np.uint8))
        found.append([{"number": _number(worse), "pair": bytes([kind]) + better} for worse, better in pairs])
    return found


def _worse(orders: list[bytes], hashes: list[bytes], most: int, mirror: Bits) -> Iterator[tuple[bytes, bytes]]:
    """(A row, the best one near it) of every row that has a better one near."""
    ranked = sorted(zip(orders, hashes, strict=True))
    bits = _bits([value for _, value in ranked])
    for place in range(1, len(ranked)):
        near = distances(bits[place], bits[: min(place, MOST_COMPARED)], mirror) <= most
        if near.any():
            yield ranked[place][0], ranked[int(near.argmax())][0]


@daft.func(return_dtype=DataType.int64())
def _keeper(pair: bytes) -> int:
    return _number(pair)


@daft.func(return_dtype=DataType.string())
def _reason(pair: bytes, keeper: str, near: str) -> str:
    return (near if pair[0] == NEAR else SAME_BYTES) + keeper


def _number(order: bytes) -> int:
    return int.from_bytes(order[-8:])


def _bits(hashes: list[bytes]) -> Bits:
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(len(hashes), -1)
