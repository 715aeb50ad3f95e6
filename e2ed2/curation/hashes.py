"""Hashes in which alike images have nearly the same bits, and the bands by which such are found.

The perceptual hash is the signs of the lowest frequencies of an image's cosine transform. A mirrored image has the
opposite signs at odd horizontal frequencies: so its hash is known without it, and bands can be made alike for both.
"""

import hashlib
import math
import struct

import numpy as np
from numpy.typing import NDArray

from e2ed2.curation.pipeline import HASH_BITS

HASHED_SIDE = 32  # pixels
BAND_BITS = 16
NUM_BANDS = HASH_BITS // BAND_BITS
MOST_COLOUR = 16  # of 255, between the means of copies
LUMA = np.array([299, 587, 114], dtype=np.float32)  # whole, so that no sum is rounded

LARGEST = 2**64 - 1

Bits = NDArray[np.uint8]  # [N, HASH_BITS / 8 or more]


def _cosines() -> NDArray[np.float32]:
    frequency, place = np.arange(HASHED_SIDE)[:, None], np.arange(HASHED_SIDE)[None]
    return np.cos(np.pi * frequency * (2 * place + 1) / (2 * HASHED_SIDE)).astype(np.float32)


def _lowest() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Vertical and horizontal frequency of each bit, from the lowest, the mean left out."""
    every = [(v, h) for v in range(HASHED_SIDE) for h in range(HASHED_SIDE) if v + h]
    chosen = sorted(every, key=lambda pair: (pair[0] ** 2 + pair[1] ** 2, pair))[:HASH_BITS]
    vertical, horizontal = zip(*chosen, strict=True)
    return np.array(vertical), np.array(horizontal)


VERTICAL, HORIZONTAL = _lowest()
COSINES = _cosines()[: max(VERTICAL.max(), HORIZONTAL.max()) + 1]
MEAN = np.full(HASHED_SIDE**2, HASHED_SIDE**-2, dtype=np.float32)
MIRROR = np.packbits(HORIZONTAL % 2 == 1)  # bits that a mirrored image has the other way


def perceptual_hashes(small: NDArray[np.uint8]) -> list[bytes]:
    """Of images brought to [N, HASHED_SIDE, HASHED_SIDE, 3]: `HASH_BITS` of their shapes, and their mean colours."""
    pixels = small.reshape(-1, HASHED_SIDE**2, 3).astype(np.float32)
    grey = (pixels @ LUMA).reshape(small.shape[:3])
    signs = (COSINES @ grey @ COSINES.T)[:, VERTICAL, HORIZONTAL] > 0
    means = (MEAN @ pixels).round().astype(np.uint8)
    return [row.tobytes() for row in np.hstack([np.packbits(signs, axis=1), means])]


def band_keys(hashes: Bits, mirror: Bits) -> NDArray[np.int64]:
    """[N, NUM_BANDS]: two hashes that have a band in common, or one with the other's mirror image, share its key."""
    signs = np.ascontiguousarray(hashes[:, : HASH_BITS // 8])
    bands, mirrored = signs.view(">u2").astype(np.int64), (signs ^ mirror).view(">u2").astype(np.int64)
    return np.minimum(bands, mirrored) + (np.arange(NUM_BANDS) << BAND_BITS)


def distances(one: Bits, others: Bits, mirror: Bits) -> NDArray[np.int64]:
    """[N]: bits in which a hash differs from others, as they are or mirrored, whichever is less; all of them where the
    mean colours are further apart than `MOST_COLOUR`.

    Args:
        one: a hash, or [N] of them, each beside its own other. others: [N, its length].
    """
    signs = np.ascontiguousarray(one[..., : len(mirror)] ^ others[:, : len(mirror)]).view(np.uint64)
    bits = np.minimum(*(np.bitwise_count(each).sum(1, np.int64) for each in (signs, signs ^ mirror.view(np.uint64))))
    colours = np.abs(one[..., len(mirror) :].astype(np.int16) - others[:, len(mirror) :])
    return np.where((colours > MOST_COLOUR).any(1), HASH_BITS, bits)


def rank(seed: int, name: str, number: int, score: float | None) -> str:
    """Sorts before that of an item with a smaller score; equal and missing scores come in an order of the seed's own.

    Args:
        name, number: of the item; the number is its alone.
    """
    bits = int.from_bytes(struct.pack(">d", -math.inf if score is None else score + 0.0))  # + 0.0: no minus zero
    ascending = bits ^ (LARGEST if bits >> 63 else 1 << 63)  # as floats are ordered
    return f"{LARGEST - ascending:016x}{_drawn(seed, name):016x}{number:016x}"


def share_of(seed: int, name: str) -> float:
    """Evenly in [0, 1), of each name its own."""
    return _drawn(seed, f"share of {name}") / 2**64


def _drawn(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(errors="replace"), digest_size=8).digest())
