"""Every file that the data room reads back, mangled: what can be used is used, all else is one line."""

import gzip
import json
import random
import struct
from functools import partial

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from e2ed2.data import decoding
from e2ed2.data.cache import EMPTY, PLAIN, CachedSet
from e2ed2.data.cache_files import read_shard_metadata
from e2ed2.data.source_set import SourceSet
from e2ed2.data.sources.columns import Columns
from e2ed2.data.sources.folder import FolderSource
from e2ed2.data.sources.shards import tar_shards
from e2ed2.data.sources.tables import TableSource, table_shards
from e2ed2.data.stream import MixedStream, ShardStream, StreamSet
from tests.data import test_cache
from tests.data.conftest import png, write_shards, write_tar
from tests.mangle import bounded_memory, mangled_bytes, mangled_json, mangled_values, read_or_refuse, share_taken, times

SHAPES = [(8, 8), (4, 16), (16, 4)]


@pytest.fixture(autouse=True)
def quiet(monkeypatch, cache):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache / "datasets")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    yield
    datasets.enable_progress_bars()
    datasets.logging.set_verbosity_warning()


def share_of_folders(tmp_path, damage, read):
    """Of folders that `damage` has written into, each another, how many `read` takes."""
    folders = []

    def damage_folder(rng):
        folders.append(tmp_path / str(len(folders)))
        folders[-1].mkdir()
        damage(folders[-1], rng)

    return share_taken(damage_folder, lambda: read(folders[-1]))


def train_on(source):
    """As a training does: scanned, listed, decoded, in batches of one shape."""
    data = SourceSet([("x", source)], [1.0], SHAPES, 0.99, 1, lambda line: line.encode())
    data.first_captions(), data.fingerprint()
    for bucket in data.buckets.unique():
        torch.stack([picture.image for picture in data.pictures(torch.nonzero(data.buckets == bucket).flatten())])


def stream_of(shards):
    data = StreamSet(partial(ShardStream, shards), SHAPES, 4, 0.99, 1, lambda line: line.encode())
    for pictures, state in data.windows(4, None):
        json.dumps([[(picture.key, picture.captions) for picture in pictures], state]).encode()


def parquet_files(folder):
    """Image structs and plain bytes, one caption and several, within JSON, row groups, compressions."""
    images, captions = [png(i, (4, 4)) for i in range(5)], [f"caption {i}" for i in range(5)]
    structs = [{"bytes": image, "path": None} for image in images]
    numbered = {"image": structs, "txt": captions, "n": range(5)}
    for number, (columns, options) in enumerate(
        [
            ({"image": structs, "text": captions}, {"compression": "none", "row_group_size": 2}),
            ({"jpg": images, "captions": [[c, c.upper()] for c in captions]}, {"compression": "snappy"}),
            ({"png": images, "json": [{"caption": c, "n": 1} for c in captions]}, {"compression": "zstd"}),
            (numbered, {"data_page_version": "2.0", "compression": "gzip"}),
        ]
    ):
        pq.write_table(pa.table(columns), folder / f"{number}.parquet", **options)
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_dict(numbered | {"text": captions}, features=None).select_columns(["image", "text"]).cast(
        features
    ).to_parquet(folder / "4.parquet")
    return [path.read_bytes() for path in sorted(folder.glob("*.parquet"))]


def mangled_pages(content, rng):
    """A parquet file whose footer is whole: what is wrong is met when rows are read."""
    data, end = bytearray(content), len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(4, end)] = rng.randrange(256)
    return bytes(data)


@pytest.mark.parametrize("streaming", [False, True])
def test_mangled_parquet(tmp_path, streaming):
    files = parquet_files(tmp_path)

    def damage(folder, rng):
        content = rng.choice(files)
        if rng.random() < 0.3:
            (folder / "0.parquet").write_bytes(content)
        (folder / "1.parquet").write_bytes((mangled_bytes if rng.random() < 0.5 else mangled_pages)(content, rng))

    def read(folder):
        if streaming:
            return stream_of(table_shards(str(folder), "parquet", Columns()))
        return train_on(TableSource(str(folder), "parquet", Columns()))

    assert 0 < share_of_folders(tmp_path, damage, read) < 1


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_mangled_shards(tmp_path, suffix):
    fields = json.dumps({"caption": "from json", "width": 4}).encode()
    good = {"png": png(1, (4, 4)), "txt": b"a caption\nof two lines", "json": fields}
    whole = write_tar(tmp_path / "whole", {f"sub/{i}": good for i in range(3)}).read_bytes()[: 2 * 9 * 512 + 1024]

    def damage(folder, rng):
        content = mangled_bytes(whole, rng) + (bytes(1024) if rng.random() < 0.5 else b"")
        if suffix == "tar.gz":
            content = gzip.compress(content) if rng.random() < 0.5 else mangled_bytes(gzip.compress(whole), rng)
        (folder / f"0.{suffix}").write_bytes(content)

    def read(folder):
        stream_of(tar_shards(str(folder / f"0.{suffix}"), Columns()))

    assert 0 < share_of_folders(tmp_path, damage, read) < 1


@pytest.mark.parametrize("kind", ["metadata.jsonl", "metadata.csv", "txt"])
def test_mangled_folders(tmp_path, kind):
    rows = [{"file_name": f"{i}.png", "text": f"{i} cats, é and \U0001f600", "n": i} for i in range(3)]

    def damage(folder, rng):
        for i in range(3):
            (folder / f"{i}.png").write_bytes(png(i, (4, 4)))
        if kind == "metadata.jsonl":
            lines = [mangled_json(row, rng) if rng.random() < 0.5 else json.dumps(row).encode() for row in rows]
            content = b"\n".join(lines)
            (folder / kind).write_bytes(mangled_bytes(content, rng) if rng.random() < 0.5 else content)
        elif kind == "metadata.csv":
            lines = ["file_name,text,n", *(f'{row["file_name"]},"{row["text"]}",{row["n"]}' for row in rows)]
            (folder / kind).write_bytes(mangled_bytes("\r\n".join(lines).encode(), rng))
        else:
            for row in rows:
                (folder / row["file_name"]).with_suffix(".txt").write_bytes(mangled_bytes(row["text"].encode(), rng))

    def read(folder):
        train_on(FolderSource(folder, Columns(caption_per_line=True)))

    assert 0 < share_of_folders(tmp_path, damage, read) < 1


def mangled_tensors(content, rng):
    """A file of safetensors with bytes changed, or the values of its header, its metadata's JSON among them."""
    if rng.random() < 0.3:
        return mangled_bytes(content, rng)
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    if "__metadata__" in header and rng.random() < 0.7:
        metadata = header["__metadata__"]
        metadata["shard"] = mangled_json(json.loads(metadata["shard"]), rng).decode("latin-1")
    else:
        header = mangled_values(header, rng)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


FILES = ["cache.json", "index.safetensors", "empty.safetensors", "captions.txt", "shards/000000.safetensors"]


@pytest.mark.parametrize("name", FILES)
def test_mangled_caches(tmp_path, name):
    whole = tmp_path / "whole"
    items = [test_cache.item(0, 2), test_cache.item(1, plain=True), test_cache.item(2, shape=(8, 32))]
    test_cache.write(whole, items, parts=[[1, 1.0], [2, 3]])

    def damage(folder, rng):
        for path in FILES:
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes((whole / path).read_bytes())
        content, path = (whole / name).read_bytes(), folder / name
        if name == "cache.json":
            path.write_bytes(mangled_json(json.loads(content), rng))
        elif name == "index.safetensors" and rng.random() < 0.5:  # numbers of all sizes
            place = len(content) - 8 * rng.randrange(1, 3 * 10)
            number = rng.choice([-1, 0, 1, 2, 3, 16, 2**31, 2**62, -(2**63)])
            path.write_bytes(content[:place] + struct.pack("<q", number) + content[place + 8 :])
        else:
            path.write_bytes((mangled_tensors if path.suffix == ".safetensors" else mangled_bytes)(content, rng))

    def read(folder):
        assert (metadata := read_shard_metadata(folder, 0)) is not None
        json.dumps(metadata.model_dump())
        data = CachedSet(folder)
        assert len(data) == len(data.first_captions()) == sum(count for count, _ in data.parts or [(len(data), 1)])
        latents = {}
        for row in range(len(data)):
            captions = [0, int(data.num_captions[row]) - 1, EMPTY] + ([PLAIN] if row == 1 or not data.has_plain else [])
            embeds = [data.embeds(row, caption) for caption in captions]
            torch.cat([torch.nn.functional.pad(x["embeds"], (0, 0, 0, 9 - x["embeds"].shape[1])) for x in embeds])
            latents.setdefault(int(data.buckets[row]) if data.buckets is not None else 0, []).append(data.x0(row))
        for same in latents.values():
            torch.stack(same)

    read(whole)
    assert share_of_folders(tmp_path, damage, read) < 1


def test_mangled_scans(tmp_path, cache):
    """What was kept is made again where it does not fit."""
    (tmp_path / "set").mkdir()
    for i in range(3):
        (tmp_path / "set" / f"{i}.png").write_bytes(png(i, (4, 16) if i else (16, 16)))
        (tmp_path / "set" / f"{i}.txt").write_text("x" if i < 2 else "")
    source = FolderSource(tmp_path / "set")
    right = decoding.scan(source, 1)
    (kept,) = (cache / "scans").glob("*.json")
    content = kept.read_bytes()
    with bounded_memory():
        for seed in times():
            rng = random.Random(seed)
            kept.write_bytes(mangled_json(json.loads(content), rng))
            assert read_or_refuse(partial(train_on, source), seed)
            kept.write_bytes(rng.choice([b"", b"[]", b"[[16, 16]]", b'[[16.5, 16], [16, 4]]', content[:-1], b"{}"]))
            assert decoding.scan(source, 1) == right


def test_mangled_places_in_a_stream(tmp_path):
    write_shards(tmp_path / "set", 2, 5)
    shards = tar_shards(str(tmp_path / "set"), Columns())

    def open_set(mixed):
        def open_stream(seed, rank, num_processes):
            streams = [ShardStream(shards, seed, rank, num_processes) for _ in range(2)]
            return MixedStream(streams, [1.0, 2.0], 0) if mixed else streams[0]

        return StreamSet(open_stream, SHAPES, 4, 0.5, 1, lambda line: None)

    places = []  # whole ones, of a stream and of a mixture
    for mixed in (False, True):
        data = open_set(mixed)
        data.begin(0, 2, 0, 1, None)
        places.append(json.loads(json.dumps(data.state())))

    def read(folder):
        mixed, place = json.loads((folder / "place.json").read_bytes())
        data = open_set(mixed)
        data.begin(0, 2, 0, 1, place)
        for _ in range(5):
            data.pictures(data.rows(0))

    def damage(folder, rng):
        mixed = rng.random() < 0.5
        (folder / "place.json").write_text(json.dumps([mixed, mangled_values(places[mixed], rng)]))

    assert 0 < share_of_folders(tmp_path, damage, read) < 1
