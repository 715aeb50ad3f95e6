"""What the audit counts and shows, overlap with evaluation sets, and scores that are no numbers."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from e2ed2.curation.audit import Sample
from e2ed2.curation.items import Item
from e2ed2.curation.overlap import EvaluationSet
from e2ed2.curation.pipeline import Pipeline, ScoreConfig
from e2ed2.curation.sources.row import Row
from e2ed2.curation.stages import score as scoring
from e2ed2.curation.stages.read import _item


def test_a_sample_holds_items_of_equal_ids_in_whatever_order_they_come():
    items = [Item(number, f"{number % 3:03d}", "here") for number in range(12)]  # keys that start again in each shard
    samples = [Sample(5), Sample(5)]
    for one, other in zip(items, reversed(items), strict=True):
        samples[0].add(one)
        samples[1].add(other)
    first, second = ([item.number for item in sample.items()] for sample in samples)
    assert first == second and len({*first}) == 5 and first[:4] == [*range(first[0], 12, 3)]


@pytest.mark.parametrize(("score", "read"), [(6, 6.0), (math.inf, None), (-math.inf, None), (math.nan, None),
                                             (10**400, None), ("7", None)])  # fmt: skip
def test_a_score_that_is_no_finite_number_is_none(score, read):
    pipeline = Pipeline(input={"path": "x"}, output={"path": "y"})
    item = _item(Row("a", "here", {"aesthetic": score}, "words"), 0, pipeline)
    assert item.score == read and item.kept


def test_a_head_that_gives_no_number_costs_the_image(monkeypatch):
    monkeypatch.setattr(scoring, "ask_model", lambda items, *_: [(item, item.number) for item in items])
    monkeypatch.setattr(scoring, "ImageFeatures", lambda asked: SimpleNamespace(width=1, side=1, hash=lambda _: b""))
    monkeypatch.setattr(scoring, "Head", lambda path: _Head())
    items = [Item(0, "a", "here"), Item(1, "b", "here")]
    scoring.scorer(ScoreConfig(model="m", head="h"))(items)
    assert [(item.score, item.reason) for item in items] == [(5.0, None), (None, "the model's score is nan")]


class _Head:
    width = 1

    def __call__(self, number):
        return (5.0, math.nan)[number]


def test_an_image_of_an_evaluation_set_is_found_though_no_band_is_equal(photos):
    for path in photos.glob("*.txt"):
        path.unlink()
    found = EvaluationSet("held out", photos)
    bits = np.frombuffer(found._images[3].perceptual_hash, np.uint8).copy()
    bits[:16:2] ^= 1  # one bit of each band
    item = Item(0, "near", "here", perceptual_hash=bits.tobytes())
    bits[:16] ^= 255  # neither near as it is nor mirrored
    found.add([item, Item(1, "far", "here", perceptual_hash=bits.tobytes()), Item(2, "none", "here")])
    assert found.found == [("near", "003.jpg")] and found.num_images == 1
