"""The cache on disk."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from e2ed2.data.cache import EMPTY, PLAIN, CachedItem, CachedSet, write_index, write_manifest, write_shard
from e2ed2.data.cache_files import read_shard_metadata
from e2ed2.system.errors import UserError

MADE_WITH = {"data.size": 16, "data.buckets": {"max_ratio": 4.0, "step": 8}}
MANIFEST = {"made_with": MADE_WITH, "data": "x", "parts": [], "has_images": False, "complete": True}


def item(number, num_captions=1, plain=False, shape=(16, 16)):
    captions = [*range(num_captions), *([PLAIN] if plain else [])]
    embeds = {i: {"embeds": torch.full((1, 2, 3), 10.0 * number + i), "mask": torch.ones(1, 2)} for i in captions}
    x0 = torch.full((4, *(side // 4 for side in shape)), float(number))
    return CachedItem(x0, (20, 20, 2, 2, *shape), embeds, f"caption {number}", None)


def write(folder, *shards, **manifest):
    for number, items in enumerate(shards):
        write_shard(folder, number, items, None)
    write_index(folder)
    save_file({"embeds": torch.zeros(1, 1, 3), "mask": torch.ones(1, 1)}, folder / "empty.safetensors")
    write_manifest(folder, MANIFEST | manifest)


def test_items_come_back_in_order_across_shards_of_any_length(tmp_path):
    write(tmp_path, [item(0), item(1, 2)], [], [item(2, shape=(8, 32))])
    data = CachedSet(tmp_path)
    assert len(data) == 3 and [data.x0(row)[0, 0, 0].item() for row in range(3)] == [0, 1, 2]
    assert data.num_captions.tolist() == [1, 2, 1] and data.micro[2].tolist() == [20, 20, 2, 2, 8, 32]
    assert data.embeds(1, 1)["embeds"][0, 0, 0] == 11 and data.embeds(1, EMPTY)["embeds"].shape == (1, 1, 3)
    assert data.embeds(2, PLAIN)["embeds"][0, 0, 0] == 20  # there is none: the first
    assert data.buckets.tolist() == [0, 0, 1]  # 16 x 16, 16 x 16, 8 x 32
    assert data.first_captions() == ["caption 0", "caption 1", "caption 2"] and data.size == 16


def test_plain_captions_are_kept_apart(tmp_path):
    write(tmp_path, [item(3, plain=True)])
    data = CachedSet(tmp_path)
    assert data.has_plain and data.embeds(0, PLAIN)["embeds"][0, 0, 0] == 30 + PLAIN and data.num_captions.item() == 1


def test_what_is_no_cache_unfinished_or_damaged_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no cache; run `e2ed2 precompute"):
        CachedSet(tmp_path)
    write(tmp_path, [item(0)], complete=False)
    with pytest.raises(UserError, match="unfinished; run the same `e2ed2 precompute` again"):
        CachedSet(tmp_path)
    write_manifest(tmp_path, MANIFEST)
    data = CachedSet(tmp_path)
    shard = tmp_path / "shards" / "000000.safetensors"
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(UserError, match="000000.safetensors: damaged .*; remove it, and run the same `e2ed2 pre"):
        data.x0(0)
    (tmp_path / "index.safetensors").unlink()
    with pytest.raises(UserError, match=r"index.safetensors: damaged \(No such file"):
        CachedSet(tmp_path)


def change(path, key, value):
    """One value of a JSON file: of its fields `made_with.data.size` names the inner one; ... removes."""
    values = json.loads(path.read_text())
    holder, key = (values["made_with"], key.removeprefix("made_with.")) if "." in key else (values, key)
    holder[key] = value
    if value is ...:
        del holder[key]
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("complete", ..., "complete is missing"),
        ("complete", "yes", "complete: Input should be a valid boolean, found 'yes'"),
        ("made_with", [], r"made_with: Input should be a valid dictionary .*, found \[\]"),
        ("made_with.data.size", 10**12, "made_with.data.size: Input should be less than or equal to 32768"),
        ("made_with.data.buckets", {"max_ratio": 4.0}, "made_with.data.buckets.step is missing"),
        ("made_with.data.buckets", {"max_ratio": 4.0, "step": 0}, "made_with.data.buckets.step: Input should be great"),
        ("parts", [[3, -1.0]], "parts.0.1: Input should be greater than 0, found -1.0"),
        ("has_images", None, "has_images: Input should be a valid boolean, found None"),
    ],
)
def test_a_manifest_is_of_its_kind_or_refused_by_its_field(tmp_path, key, value, message):
    write(tmp_path, [item(0)])
    change(tmp_path / "cache.json", key, value)
    with pytest.raises(UserError, match=f"cache .*cache.json: {message}.*; remove the folder, and precompute again"):
        CachedSet(tmp_path)


def test_a_manifest_without_what_a_later_version_added_is_whole(tmp_path):
    write(tmp_path, [item(0)], made_with=MADE_WITH | {"autoencoder": "abc"})
    assert CachedSet(tmp_path).made_with == {
        "data.size": 16, "data.buckets": {"max_ratio": 4.0, "step": 8, "sizes": []}, "autoencoder": "abc"
    }  # fmt: skip
    (tmp_path / "cache.json").write_text("{")
    with pytest.raises(UserError, match="cache.json: not readable as JSON .*; remove the folder, and precompute again"):
        CachedSet(tmp_path)


PLACES = torch.tensor([[0, 0], [0, 1]])
ITEMS = torch.tensor([[1, 0, 20, 20, 2, 2, 16, 16], [1, 0, 20, 20, 2, 2, 8, 32]])


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"places": PLACES}, r"items are no whole numbers \[N, 8\]"),
        ({"places": PLACES.float(), "items": ITEMS}, r"places are no whole numbers \[N, 2\]"),
        ({"places": PLACES[:0], "items": ITEMS[:0]}, "places are no whole numbers"),
        ({"places": PLACES[:1], "items": ITEMS}, "1 places, 2 items"),
        ({"places": PLACES, "items": ITEMS - 3}, "items out of range"),
        ({"places": PLACES, "items": ITEMS * torch.tensor([0] + [1] * 7)}, "items without a caption"),
        ({"places": PLACES, "items": ITEMS + torch.tensor([0] * 7 + [1])}, "no bucket is (16 x 17|8 x 33)"),
    ],
)
def test_an_index_holds_numbers_in_range_or_is_refused(tmp_path, index, message):
    write(tmp_path, [item(0), item(1, shape=(8, 32))])
    assert CachedSet(tmp_path).buckets.tolist() == [0, 1]
    save_file({name: table.contiguous() for name, table in index.items()}, tmp_path / "index.safetensors")
    with pytest.raises(UserError, match=f"index.safetensors: damaged \\({message}.*; remove it, and run the same"):
        CachedSet(tmp_path)


def test_parts_are_those_of_the_items(tmp_path):
    write(tmp_path, [item(0), item(1)], parts=[[1, 1.0], [1, 2]])
    assert CachedSet(tmp_path).parts == [(1, 1.0), (1, 2.0)]
    change(tmp_path / "cache.json", "parts", [[1, 1.0]])
    with pytest.raises(UserError, match="index.safetensors: damaged"):
        CachedSet(tmp_path)


@pytest.mark.parametrize(
    ("empty", "message"),
    [
        ({"mask": torch.ones(1, 1)}, "holds mask"),
        ({"embeds": torch.zeros(1, 1, 3), "x": torch.ones(1, 1)}, "holds"),
        ({"embeds": torch.zeros(1, 3)}, r"embeds is float32 \[1, 3\]"),
        ({"embeds": torch.zeros(1, 1, 3, dtype=torch.int64)}, r"embeds is int64 \[1, 1, 3\]"),
        ({"embeds": torch.zeros(1, 1, 3), "mask": torch.ones(1, 2)}, r"mask is float32 \[1, 2\]"),
    ],
)
def test_the_empty_prompt_is_of_its_kind_or_refused(tmp_path, empty, message):
    write(tmp_path, [item(0)])
    save_file(empty, tmp_path / "empty.safetensors")
    with pytest.raises(UserError, match=f"empty.safetensors: damaged \\({message}"):
        CachedSet(tmp_path)


def test_captions_are_as_many_as_items(tmp_path):
    write(tmp_path, [item(0), item(1)])
    data, path = CachedSet(tmp_path), tmp_path / "captions.txt"
    for content, reason in {b"one\n": "1 lines for 2 items", b"one\ncaf\xe9\n": "line 2 is not UTF-8 text"}.items():
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"captions.txt: damaged \({reason}"):
            data.first_captions()


def test_tensors_of_a_shard_fit_each_other_or_are_refused(tmp_path):
    first, second = item(0), item(1, shape=(8, 32))
    for changed, message in [
        (replace(second, x0=torch.zeros(4, 4, 4)), r"x0.1 is float32 \[4, 4, 4\]"),
        (replace(second, x0=torch.zeros(4, 2, 8).half()), r"x0.1 is float16 \[4, 2, 8\]"),
    ]:
        write(tmp_path, [first, changed])
        data = CachedSet(tmp_path)
        assert data.x0(0).shape == (4, 4, 4)
        with pytest.raises(UserError, match=rf"000000.safetensors: damaged \({message}"):
            data.x0(1)
    embeds = {0: {"embeds": torch.zeros(1, 2, 3), "mask": torch.ones(1, 5)}}
    write(tmp_path, [first, replace(second, embeds=embeds)])
    with pytest.raises(UserError, match=r"damaged \(mask.1.0 is float32 \[1, 5\]"):
        CachedSet(tmp_path).embeds(1, 0)
    write(tmp_path, [replace(first, x0=torch.zeros(4))])
    with pytest.raises(UserError, match=r"damaged \(x0.0 is float32 \[4\]"):
        CachedSet(tmp_path)


SHARDS = ["null", "[]", "[[], 3]", '[[[1, false, 1, 1, 1, 1, 1, "x"]], null]', '[[], {"a": 1}]', "{"]


@pytest.mark.parametrize("shard", SHARDS)
def test_what_a_shard_says_of_its_items_is_of_its_kind_or_refused(tmp_path, shard):
    write(tmp_path, [item(0)])
    found = read_shard_metadata(tmp_path, 0)
    assert found.rows == [(1, False, 20, 20, 2, 2, 16, 16, "caption 0")] and found.state is None
    assert read_shard_metadata(tmp_path, 1) is None
    save_file({"x": torch.zeros(1)}, tmp_path / "shards" / "000000.safetensors", metadata={"shard": shard})
    with pytest.raises(UserError, match="000000.safetensors: .*; remove it, and run the same `e2ed2 precompute` again"):
        write_index(tmp_path)
