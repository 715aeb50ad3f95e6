"""Parquet files and hub data sets, on disk and as streams."""

import fsspec
import pytest
from datasets import Dataset, Features, Image, List, Value

from e2ed2.data.batch import SkippedItem
from e2ed2.data.columns import Columns
from e2ed2.data.decoding import scan
from e2ed2.data.stream import ShardStream
from e2ed2.data.tables import TableSource, table_shards
from e2ed2.system.errors import UserError
from tests.data.conftest import png


@pytest.fixture(autouse=True)
def no_hub(monkeypatch, cache):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache / "datasets")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)


def write_parquet(path, images, **columns):
    """Images as Hugging Face datasets store them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    features = Features({"image": Image(decode=False), **{name: kind for name, (kind, _) in columns.items()}})
    values = {"image": [{"bytes": image, "path": None} for image in images]}
    Dataset.from_dict(values | {name: rows for name, (_, rows) in columns.items()}, features=features).to_parquet(path)
    return path


def texts(*rows):
    return Value("string"), list(rows)


def test_rows_with_several_captions_and_bad_ones(tmp_path):
    captions = (List(Value("string")), [["one", "uno"], [], ["three"], ["four"]])
    path = write_parquet(tmp_path / "a.parquet", [png(1), png(2), b"noise", png(4)], captions=captions)
    source = TableSource(str(path), "parquet", Columns())
    assert len(source) == 4 and source[0].captions == ("one", "uno") and source[0].image == png(1)
    sides, bad = scan(source, 2)
    assert sides == [(16, 16), None, None, (16, 16)]
    assert [str(item).removeprefix(f"{path}") for item in bad] == [
        "row 1: no caption",
        "[2]: not a PNG, JPEG, WebP, BMP, GIF, TIFF or AVIF image",
    ]
    assert TableSource(str(path), "parquet", Columns()).fingerprint() == source.fingerprint()
    assert TableSource(str(path), "parquet", Columns(caption_per_line=True)).fingerprint() != source.fingerprint()


def test_a_folder_of_files_and_a_hub_repository_give_the_same_rows(tmp_path):
    for i in range(2):
        write_parquet(tmp_path / "data" / f"train-{i}.parquet", [png(i)], text=texts(f"text {i}"))
    for kind in ("parquet", "hub"):  # a local repository of the hub's layout stands for one on it
        source = TableSource(str(tmp_path), kind, Columns())
        assert [source[row].captions for row in range(2)] == [("text 0",), ("text 1",)]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_in_a_store_gives_the_rows_of_all_its_files(tmp_path, streaming, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)  # the store is in memory
    monkeypatch.setattr("datasets.config.DOWNLOADED_DATASETS_PATH", str(tmp_path / "downloads"))
    store = fsspec.filesystem("memory")
    for i in range(2):
        file = write_parquet(tmp_path / f"{i}.parquet", [png(i)], text=texts(f"text {i}"))
        store.pipe(f"/{tmp_path.name}/set/sub/{i}.parquet", file.read_bytes())
    url = f"memory://{tmp_path.name}/set"
    if streaming:
        items = list(ShardStream(table_shards(url, "parquet", Columns())))
    else:
        source = TableSource(url, "parquet", Columns())
        items = [source[row] for row in range(len(source))]
    assert [item.captions for item in items] == [("text 0",), ("text 1",)]


def test_a_stream_of_rows_resumes_at_any_row(tmp_path):
    for i in range(2):
        write_parquet(tmp_path / f"{i}.parquet", [png(i)] * 3, text=texts(*(f"{i}{j}" for j in range(3))))
    shards = table_shards(str(tmp_path), "parquet", Columns())
    stream = ShardStream(shards)
    items = iter(stream)
    assert [next(items).captions[0] for _ in range(4)] == ["00", "01", "02", "10"]
    resumed = ShardStream(shards)
    resumed.state = stream.state
    assert [item.captions[0] for item in resumed] == ["11", "12"]
    assert not any(isinstance(item, SkippedItem) for item in resumed)


@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_refused(tmp_path, streaming):
    def open_it(path, kind="parquet", columns=Columns(), **options):  # noqa: B008 - frozen
        return (table_shards if streaming else TableSource)(str(path), kind, columns, **options)

    path = write_parquet(tmp_path / "a.parquet", [png(1)], title=texts("x"))
    with pytest.raises(UserError, match=r"data.caption_column: .*has no column of a usual name .*it has image, title"):
        open_it(path)
    with pytest.raises(UserError, match="data.image_column: .*no column 'picture'; it has image, title"):
        open_it(path, columns=Columns(image="picture", caption="title"))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="a.parquet' cannot be read"):
        open_it(path)
    with pytest.raises(UserError, match="missing.parquet' cannot be read"):
        open_it(tmp_path / "missing.parquet")
    with pytest.raises(UserError, match="data.path 'nobody/nothing' cannot be read"):
        open_it("nobody/nothing", "hub")
