"""Streams: exact resumption, whatever the number of threads, and what stops them."""

import copy
import json
from functools import partial

import pytest
import torch

from e2ed2.data import stream as stream_module
from e2ed2.data.sources.columns import Columns
from e2ed2.data.sources.shards import tar_shards
from e2ed2.data.stream import MixedStream, ShardStream, StreamSet
from e2ed2.system.errors import UserError
from tests.data.conftest import png, write_shards, write_tar

SHAPES = [(16, 16), (8, 32), (16, 32)]


def open_set(folder, window_size=6, num_workers=2, say=lambda line: None, max_bad_fraction=0.0):
    open_stream = partial(ShardStream, tar_shards(str(folder), Columns()))
    return StreamSet(open_stream, SHAPES, window_size, max_bad_fraction, num_workers, say)


def batches(data, count):
    """Keys of the next batches."""
    return [[picture.key for picture in data.pictures(data.rows(0))] for _ in range(count)]


@pytest.mark.parametrize("window_size", [4, 6, 15, 40])
def test_a_resumed_stream_goes_on_with_the_very_next_batch(tmp_path, window_size):
    write_shards(tmp_path)
    undisturbed = open_set(tmp_path, window_size, num_workers=1)
    undisturbed.begin(3, 2, 0, 1, None)
    expected = batches(undisturbed, 30)
    resumed, state, found = None, None, []
    for i in range(30):
        if i % 3 == 0:
            resumed = open_set(tmp_path, window_size, num_workers=3)
            resumed.begin(3, 2, 0, 1, state)
        found += batches(resumed, 1)
        state = json.loads(json.dumps(resumed.state()))
    assert found == expected
    assert len({key for batch in expected for key in batch}) == 15  # all of the set


def test_a_set_smaller_than_the_window_is_decoded_once(tmp_path, monkeypatch):
    decoded = []
    decode = stream_module.decode_item
    monkeypatch.setattr(stream_module, "decode_item", lambda item, shapes: decoded.append(item) or decode(item, shapes))
    write_shards(tmp_path)
    data = open_set(tmp_path, window_size=1000, num_workers=1)
    data.begin(3, 1, 0, 1, None)
    epochs = [{key for batch in batches(data, 15) for key in batch} for _ in range(8)]
    assert len(decoded) == 15 and all(len(epoch) == 15 for epoch in epochs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": "3"}, "window: Input should be a valid integer, found '3'"),
        ({"batch": 9}, "batch 9 of 4: the data are others"),
        ({"stream": {"epoch": 0, "shard": 0}}, "item is missing"),
        ({"stream": {"count": 0, "streams": []}}, "epoch is missing"),
        ({"seen": -1}, "seen: Input should be greater than or equal to 0, found -1"),
    ],
)
def test_a_saved_place_is_of_its_kind_or_refused_by_its_field(tmp_path, change, message):
    write_shards(tmp_path)
    data = open_set(tmp_path)
    data.begin(3, 2, 0, 1, None)
    place = json.loads(json.dumps(data.state()))
    open_set(tmp_path).begin(3, 2, 0, 1, place)
    with pytest.raises(UserError, match=f"the saved place in the data: {message}.*; begin anew, or take another check"):
        open_set(tmp_path).begin(3, 2, 0, 1, place | change)


def test_every_batch_has_one_shape_and_a_window_holds_each_item_once(tmp_path):
    write_shards(tmp_path, 3, 10)
    data = open_set(tmp_path, window_size=30)
    data.begin(0, 4, 0, 1, None)
    seen = []
    for _ in range(8):  # 24 squares and 6 wide ones: 6 + 2 batches
        pictures = data.pictures(data.rows(0))
        assert len({picture.image.shape for picture in pictures}) == 1
        seen += [picture.key for picture in pictures]
    assert len(set(seen)) == 30
    rows = data.random_rows(torch.Generator().manual_seed(0))
    assert len({picture.image.shape for picture in data.pictures(rows)}) == 1


def test_bad_items_are_named_once_and_too_many_stop_the_run(tmp_path):
    good, bad = {"png": png(1), "txt": b"x"}, {"png": b"noise", "txt": b"x"}
    write_tar(tmp_path / "a.tar", {f"{i}": bad if i in (3, 4) else good for i in range(10)})
    lines = []
    data = open_set(tmp_path, window_size=10, say=lines.append, max_bad_fraction=0.2)
    data.begin(0, 2, 0, 1, None)
    assert [line.split("/")[-1] for line in lines] == [
        f"{i}: not a PNG, JPEG, WebP, BMP, GIF, TIFF or AVIF image" for i in (3, 4)
    ]
    assert len({key for batch in batches(data, 4) for key in batch}) == 8
    with pytest.raises(UserError, match=r"2 of 10 items \(20.0%\) are unusable, data.max_bad_fraction allows 10.0%"):
        open_set(tmp_path, window_size=10, max_bad_fraction=0.1).begin(0, 2, 0, 1, None)


def test_preview_is_of_one_shape_and_leaves_the_stream_alone(tmp_path):
    write_shards(tmp_path)
    data = open_set(tmp_path)
    assert [picture.key for picture in data.preview(3)] == ["0-0", "0-1", "0-2"]
    data.begin(0, 2, 0, 1, None)
    state = copy.deepcopy(data.state())
    assert data.preview(3) is data.preview(3) and len(data.preview(2)) == 2, "read once, of each length"
    assert data.state() == state


def test_mixed_streams_are_drawn_by_weight_and_resume(tmp_path):
    for name in ("a", "b"):
        write_tar(tmp_path / f"{name}.tar", {f"{name}{i}": {"png": png(1), "txt": b"x"} for i in range(5)})

    def open_mix():
        streams = [ShardStream(tar_shards(str(tmp_path / f"{name}.tar"), Columns()), 0) for name in ("a", "b")]
        return MixedStream(streams, [1.0, 3.0], 0)

    stream = open_mix()
    items = iter(stream)
    keys = [next(items).key for _ in range(400)]
    assert 60 < sum(key.startswith("a") for key in keys) < 140
    state = stream.state
    following = [next(items).key for _ in range(20)]
    resumed = open_mix()
    resumed.state = json.loads(json.dumps(state))
    assert [item.key for item, _ in zip(resumed, range(20), strict=False)] == following
    with pytest.raises(UserError, match="the saved place in the data: 1 streams, but there are 2"):
        resumed.state = {"count": 0, "streams": state["streams"][:1]}
