"""Parquet files and hub data sets, on disk and as streams."""

from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, List, Value

from e2ed2.data.decoding import scan
from e2ed2.data.items import SkippedItem
from e2ed2.data.sources.columns import Columns
from e2ed2.data.sources.tables import TableSource, table_shards
from e2ed2.data.stream import ShardStream
from e2ed2.system.errors import UserError
from tests.data.conftest import png, write_tar


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
        "[1]: no caption",
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


def read(path, streaming, kind="parquet", columns=Columns()):  # noqa: B008 - frozen
    """Every item, or what is said instead of it."""
    if streaming:
        return list(ShardStream(table_shards(str(path), kind, columns)))
    source = TableSource(str(path), kind, columns)
    return [source[row] for row in range(len(source))]


both_ways = pytest.mark.parametrize("streaming", [False, True])


@both_ways
@pytest.mark.parametrize("kind", ["parquet", "hub"])
def test_columns_that_nobody_asked_for_do_not_matter(tmp_path, streaming, kind):
    more = [{}, {"n": (Value("int64"), [1])}, {"n": texts("x")}, {"caption": texts("other"), "m": texts("x")}]
    for i, columns in enumerate(more):
        write_parquet(tmp_path / f"train-{i}.parquet", [png(i)], text=texts(f"text {i}"), **columns)
    items = read(tmp_path, streaming, kind)
    assert [item.captions for item in items] == [(f"text {i}",) for i in range(4)]
    assert [item.image for item in items] == [png(i) for i in range(4)]


@both_ways
def test_a_hub_data_set_of_another_kind_is_read_as_it_is(tmp_path, streaming):
    for shard in range(2):
        samples = {f"{shard}{i}": {"png": png(i), "txt": f"text {shard}{i}".encode()} for i in range(2)}
        write_tar(tmp_path / f"train-{shard}.tar", samples)
    items = read(tmp_path, streaming, "hub")
    assert [item.captions[0] for item in items] == ["text 00", "text 01", "text 10", "text 11"]
    path = tmp_path / "train-0.tar"
    path.write_bytes(b"\xff" * 2048 + path.read_bytes()[2048:])
    with pytest.raises(UserError, match=f"data.path '{tmp_path}.*' cannot be read"):
        read(tmp_path, streaming, "hub")


@both_ways
def test_a_damaged_page_is_named_where_it_is_asked_for(tmp_path, streaming):
    """The footer is whole: it is met when a row is read."""
    table = pa.table({"image": [png(i) for i in range(3)], "text": ["a cat"] * 3, "note": ["of no use"] * 3})
    pq.write_table(table, tmp_path / "0.parquet", compression="none", use_dictionary=False)
    pq.write_table(table, tmp_path / "1.parquet", compression="none", use_dictionary=False)
    whole = (tmp_path / "1.parquet").read_bytes()
    for text, is_asked in ((b"of no use", False), (b"a cat", True)):
        place = whole.index(text) - 4  # its length
        (tmp_path / "1.parquet").write_bytes(whole[:place] + b"\xff" * 4 + whole[place + 4 :])
        if is_asked:
            with pytest.raises(UserError, match="1.parquet' cannot be read .*or fetch the damaged file again"):
                read(tmp_path, streaming)
        else:
            assert [item.captions for item in read(tmp_path, streaming)] == [("a cat",)] * 6


@both_ways
@pytest.mark.parametrize("content", [b"", b"PAR1"])
def test_a_later_file_that_is_cut_off_is_named(tmp_path, streaming, content):
    for i in range(2):
        whole = write_parquet(tmp_path / f"{i}.parquet", [png(i)], text=texts("x")).read_bytes()
    (tmp_path / "1.parquet").write_bytes(content and whole[: len(whole) // 2])
    with pytest.raises(UserError, match="/1.parquet' cannot be read .*, or fetch the damaged file again"):
        read(tmp_path, streaming)


@both_ways
def test_a_later_file_without_the_column_is_named(tmp_path, streaming):
    write_parquet(tmp_path / "0.parquet", [png(0)], text=texts("x"))
    write_parquet(tmp_path / "1.parquet", [png(1)], title=texts("x"))
    with pytest.raises(UserError, match="data.caption_column: .*/1.parquet has no column of a usual .*image, title"):
        read(tmp_path, streaming)


@both_ways
def test_files_without_rows_say_nothing_of_the_columns(tmp_path, streaming):
    write_parquet(tmp_path / "0.parquet", [], text=texts())
    with pytest.raises(UserError, match="has no rows: name one that has"):
        read(tmp_path, streaming)
    write_parquet(tmp_path / "1.parquet", [png(1)], text=texts("x"))
    assert [item.captions for item in read(tmp_path, streaming)] == [("x",)]


@both_ways
def test_rows_without_an_image_or_a_fit_caption_are_skipped_by_name(tmp_path, streaming):
    structs = [{"bytes": png(0), "path": None}, {"bytes": None, "path": None}, {"bytes": b"", "path": "x"}, None]
    values = {"image": [*structs, *[{"bytes": png(4), "path": None}] * 4]}
    not_utf8 = pa.array([b"x"] * 4 + [b"caf\xe9", b"a\0b", "\ufeffa cat".encode(), b"last"]).view(pa.string())
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(values | {"text": not_utf8}), path)
    items = read(path, streaming)
    assert [item.captions for item in items if not isinstance(item, SkippedItem)] == [("x",), ("a cat",), ("last",)]
    skipped = {str(item.path): item.reason for item in items if isinstance(item, SkippedItem)}
    assert skipped.pop(f"{path}[4]").startswith("'utf-8' codec can't decode byte 0xe9")
    no_image = {f"{path}[{row}]": "no image" for row in (1, 2, 3)}
    assert skipped == no_image | {f"{path}[5]": "caption holds a NUL character"}


DEFAULT = Columns(default="a photo of sks dog")


def captioned(items):
    return [(item.captions, item.by_default) for item in items if not isinstance(item, SkippedItem)]


@both_ways
@pytest.mark.parametrize("kind", ["parquet", "hub"])
def test_rows_without_a_caption_have_the_default_one(tmp_path, streaming, kind):
    structs = [{"bytes": png(i), "path": None} for i in range(5)] + [None]
    not_utf8 = pa.array([b"my dog", None, b" \n", b"a photo of sks dog", b"caf\xe9", None]).view(pa.string())
    path = tmp_path / "train-0.parquet"
    pq.write_table(pa.table({"image": structs, "text": not_utf8}), path)
    items = read(tmp_path, streaming, kind, DEFAULT)
    by_default = (("a photo of sks dog",), True)
    assert captioned(items) == [(("my dog",), False), by_default, by_default, (("a photo of sks dog",), False)]
    assert [item.reason.partition(" byte")[0] for item in items if isinstance(item, SkippedItem)] == [
        "'utf-8' codec can't decode", "no image",
    ]  # fmt: skip
    if not streaming:
        source = TableSource(str(tmp_path), kind, DEFAULT)
        assert [source.is_by_default(row) for row in range(4)] == [False, True, True, False]


@both_ways
def test_a_table_needs_no_captions_beside_a_default(tmp_path, streaming):
    path = write_parquet(tmp_path / "a.parquet", [png(1), png(2)], title=texts("x", "y"))
    for columns in (DEFAULT, Columns(caption="text", default=DEFAULT.default)):
        assert captioned(read(path, streaming, columns=columns)) == [(("a photo of sks dog",), True)] * 2
    captions = (List(Value("string")), [[], ["", " "], ["one", ""]])
    path = write_parquet(tmp_path / "b.parquet", [png(1), png(2), png(3)], captions=captions)
    assert captioned(read(path, streaming, columns=DEFAULT)) == [
        (("a photo of sks dog",), True), (("a photo of sks dog",), True), (("one",), False),
    ]  # fmt: skip
    with pytest.raises(UserError, match="data.image_column: .*no column 'picture'"):
        read(path, streaming, columns=Columns(image="picture", default="x"))


def test_a_table_s_fingerprint_changes_with_the_default_caption(tmp_path):
    path = str(write_parquet(tmp_path / "a.parquet", [png(1)], title=texts("x")))
    sources = [TableSource(path, "parquet", Columns(default=default)) for default in ("x", "y")]
    assert [source.is_by_default(0) for source in sources] == [True, True]
    assert sources[0].fingerprint() != sources[1].fingerprint()
    without = TableSource(path, "parquet", Columns(caption="title")).fingerprint()
    assert without.endswith(" Columns(image=None, caption='title', caption_per_line=False)"), "as in earlier versions"
    assert TableSource(path, "parquet", Columns(caption="title", default="x")).fingerprint() == f"{without} 'x'"


@pytest.mark.parametrize("later", ["more", "other", "none", "none beside another"])
def test_captions_that_only_some_files_have_are_not_lost_for_the_default_one(tmp_path, later):
    columns = {"more": "text", "other": "caption", "none": None, "none beside another": "title"}[later]
    write_parquet(tmp_path / "0.parquet", [png(0)], **({} if later == "more" else {"text": texts("zero")}))
    write_parquet(tmp_path / "1.parquet", [png(1)], **({columns: texts("one")} if columns else {}))
    found = captioned(read(tmp_path, True, columns=DEFAULT))
    first, second = {"more": (None, "one"), "other": ("zero", "one")}.get(later, ("zero", None))
    assert found == [((caption or "a photo of sks dog",), caption is None) for caption in (first, second)]
    if later == "none":
        assert captioned(read(tmp_path, False, columns=DEFAULT)) == found
        return
    with pytest.raises(UserError, match="data.default_caption: .*1.parquet only some have .*; add data.streaming=true"):
        read(tmp_path, False, columns=DEFAULT)


@both_ways
@pytest.mark.parametrize("name", ["photos [v2]", "a*b", "what?"])
def test_a_path_that_exists_is_itself(tmp_path, streaming, name):
    path = write_parquet(tmp_path / name / "p.parquet", [png(1)], text=texts("x"))
    assert [item.captions for place in (path, path.parent) for item in read(place, streaming)] == [("x",)] * 2


@both_ways
def test_a_folder_that_cannot_be_read_whole_is_refused(tmp_path, streaming, locked_folder):
    write_parquet(tmp_path / "a.parquet", [png(1)], text=texts("x"))
    locked_folder(tmp_path / "sub")
    with pytest.raises(UserError, match="folder .*/sub: Permission denied, .*give access to it, or name"):
        read(tmp_path, streaming)


@both_ways
@pytest.mark.parametrize("variable", ["HF_HOME", "HF_DATASETS_CACHE"])
def test_the_cache_of_the_library_is_named_where_it_is_at_fault(tmp_path, streaming, variable, monkeypatch):
    path = write_parquet(tmp_path / "a.parquet", [png(1)], text=texts("x"))
    (tmp_path / "file").touch()  # in the place of a folder, which refuses root too
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "file" / "datasets")
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "file" / "datasets"))
    with pytest.raises(UserError) as caught:
        read(path, streaming)
    message = str(caught.value)
    assert message.startswith(f"the cache {tmp_path}/file/datasets of the data sets library: ")
    assert message.endswith(f"; set {variable} to another folder") and "data.path" not in message


@pytest.mark.skipif(not Path("/proc/1").is_dir(), reason="no /proc, where nobody can make a folder")
def test_a_cache_that_cannot_be_made_is_named_too(tmp_path, monkeypatch):
    path = write_parquet(tmp_path / "a.parquet", [png(1)], text=texts("x"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", Path("/proc/1/nohome/datasets"))
    with pytest.raises(UserError, match="^the cache /proc/1/nohome/datasets of the data sets library: "):
        read(path, False)


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
