"""Hashes of changed copies, and the join that finds them, beside looking at every pair."""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageOps

from e2ed2.curation.exchange import gather, scatter
from e2ed2.curation.hashes import (
    HASH_BITS,
    HASHED_SIDE,
    MIRROR,
    band_keys,
    distances,
    perceptual_hashes,
    rank,
    share_of,
)
from e2ed2.curation.stages.deduplicate import LOOKS, NEAR_LOOKS, keyed, losses, num_buckets, pairs
from tests.curation.conftest import picture

MOST = 10


def hash_of(image):
    return perceptual_hashes(np.asarray(image.resize((HASHED_SIDE, HASHED_SIDE), Image.Resampling.BOX))[None])[0]


def bits_of(*hashes):
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(len(hashes), -1)


def test_a_mirrored_image_has_the_same_bands_and_no_distance():
    image = picture(3)
    one, other = hash_of(image), hash_of(ImageOps.mirror(image))
    assert one != other and distances(bits_of(one)[0], bits_of(other), MIRROR).tolist() == [0]
    assert band_keys(bits_of(one), MIRROR).tolist() == band_keys(bits_of(other), MIRROR).tolist()
    turned = hash_of(image.transpose(Image.Transpose.FLIP_TOP_BOTTOM))
    assert distances(bits_of(one)[0], bits_of(turned), MIRROR)[0] > 30


def test_the_hash_is_the_signs_of_the_cosine_transform_of_luma():
    from scipy.fft import dctn

    small = np.asarray(picture(5, HASHED_SIDE))
    grey = small.astype(float) @ [0.299, 0.587, 0.114]
    low = dctn(grey, type=2)
    assert np.unpackbits(bits_of(*perceptual_hashes(small[None]))[0])[:5].tolist() == [
        int(low[v, h] > 0) for v, h in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0))
    ]


def test_a_hash_is_the_same_whatever_images_are_beside_it():
    small = np.random.default_rng(0).integers(0, 256, (300, HASHED_SIDE, HASHED_SIDE, 3), dtype=np.uint8)
    small[::2] = small[::2, :1, :1]  # of one colour: only rounding tells their signs
    alone = [perceptual_hashes(each[None])[0] for each in small]
    assert perceptual_hashes(small) == alone and perceptual_hashes(small[7:90]) == alone[7:90]


def test_other_colours_are_another_image():
    image = np.asarray(picture(5, HASHED_SIDE)).astype(int)
    redder = (image + [30, 0, 0]).clip(0, 255).astype(np.uint8)
    one, other = perceptual_hashes(np.stack([image.astype(np.uint8), redder]))
    far = distances(bits_of(one)[0], bits_of(other), MIRROR)
    assert far.tolist() == [HASH_BITS]


def test_ranks_sort_by_score_then_by_the_seed():
    scores = [None, -1e9, -2.5, -0.0, 0.0, 1e-9, 5.5, 7.0]
    ranks = [rank(0, f"{n}", n, score) for n, score in enumerate(scores)]
    assert sorted(range(len(scores)), key=lambda n: ranks[n])[:3] == [7, 6, 5]
    assert ranks[0] == max(ranks) and ranks[1] > ranks[2] > max(ranks[3:])
    assert ranks[3][:16] == ranks[4][:16]  # no minus zero
    orders = [sorted("abcdef", key=lambda name: rank(seed, name, 0, None)) for seed in range(3)]
    assert orders[0] != orders[1] != orders[2]


def test_shares_are_even():
    drawn = [share_of(1, str(n)) for n in range(2000)]
    assert abs(np.mean(drawn) - 0.5) < 0.03 and 0 <= min(drawn) < max(drawn) < 1


def test_rows_that_change_places_all_arrive_once(tmp_path):
    random = np.random.default_rng(0)
    places = random.integers(0, 6, 50)
    places[places == 3] = 4  # nobody's
    for part in range(5):
        rows = pa.RecordBatch.from_pydict({"n": np.arange(10 * part, 10 * part + 10)})
        scatter(rows, places[10 * part : 10 * part + 10], 6, tmp_path / str(part))
    files = [tmp_path / str(part) for part in range(5)]
    for place in range(6):
        assert gather(files, place)["n"].to_pylist() == np.flatnonzero(places == place).tolist()


@pytest.mark.parametrize("keys_a_bucket", [50, 10**6])
def test_the_join_drops_what_looking_at_every_pair_does(keys_a_bucket, tmp_path):
    """Hashes with few bits changed, mirrored ones, equal bytes; the rows come in another order than their ranks."""
    random = np.random.default_rng(0)
    base = random.integers(0, 256, (25, 19), dtype=np.uint8)
    base[:, 16:] = 100
    hashes = [*base]
    for n in range(75):
        changed = base[n % 25].copy()
        for bit in random.choice(HASH_BITS, int(random.integers(0, 14)), replace=False):
            changed[bit // 8] ^= 1 << (bit % 8)
        changed[:16] ^= MIRROR if n % 3 == 0 else 0
        hashes.append(changed)
    hashes = np.stack(hashes)
    digests = [bytes([n % 90]) * 32 for n in range(100)]  # 0 and 90, 1 and 91, ... are the same bytes
    sides, orders = random.integers(60, 63, 100), random.permutation(100)
    better = {n: (-(sides[n] ** 2), orders[n]) for n in range(100)}  # the larger one, then by rank
    rows = pa.table(
        {"number": range(100), "id": [f"item {n}" for n in range(100)], "sha256": [each.hex() for each in digests],
         "perceptual_hash": [row.tobytes() for row in hashes], "width": pa.array(sides, pa.int32()),
         "height": pa.array(sides, pa.int32()), "rank": [f"{orders[n]:032x}{n:016x}" for n in range(100)]}
    )  # fmt: skip
    keys = band_keys(hashes, MIRROR)
    expected = {}
    for n in range(100):
        others = [m for m in range(100) if better[m] < better[n]]
        same = [m for m in others if digests[m] == digests[n]]
        far = distances(hashes[n], hashes, MIRROR)
        near = [m for m in others if (keys[m] == keys[n]).any() and far[m] <= MOST]
        if same or near:
            keeper = min(same or near, key=lambda m: better[m])
            expected[n] = (keeper, ("the same bytes as " if same else NEAR_LOOKS) + f"item {keeper}")
    buckets = num_buckets(100, keys_a_bucket)
    for part in range(4):
        found = keyed(rows.slice(25 * part, 25), LOOKS, is_near=True)
        scatter(found, found["key"].to_numpy() % buckets, buckets, tmp_path / str(part))
    files = [tmp_path / str(part) for part in range(4)]
    found = pa.Table.from_batches([pairs(gather(files, bucket), MOST, MIRROR) for bucket in range(buckets)])
    lost = losses(found, LOOKS).to_pylist()
    assert {row["number"]: (row["keeper"], row["reason"]) for row in lost} == expected and len(lost) == len(expected)
    assert len(expected) > 50 and sum("bytes" in reason for _, reason in expected.values()) == 10
