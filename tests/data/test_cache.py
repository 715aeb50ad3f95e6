"""The cache on disk."""

import pytest
import torch
from safetensors.torch import save_file

from e2ed2.data.cache import EMPTY, PLAIN, CachedItem, CachedSet, write_index, write_manifest, write_shard
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
    with pytest.raises(UserError, match="000000.safetensors: cannot be read"):
        data.x0(0)
    (tmp_path / "index.safetensors").unlink()
    with pytest.raises(UserError, match="is damaged"):
        CachedSet(tmp_path)
