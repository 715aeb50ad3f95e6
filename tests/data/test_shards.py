"""WebDataset shards: what is read, by whom, and what is refused."""

import contextlib
import functools
import http.server
import io
import json
import os
import socket
import struct
import sys
import tarfile
import threading
from types import SimpleNamespace

import fsspec
import pytest

from e2ed2.data.items import RawItem, SkippedItem
from e2ed2.data.sources import shards as shards_module
from e2ed2.data.sources.columns import Columns
from e2ed2.data.sources.refusals import unreadable
from e2ed2.data.sources.shards import tar_shards
from e2ed2.data.stream import ShardStream
from e2ed2.system.errors import UserError
from tests.data.conftest import png, write_shards, write_tar


def keys(items):
    return [item.key for item in items if isinstance(item, RawItem)]


def read(path, columns=Columns()):  # noqa: B008 - frozen
    return [item for shard in tar_shards(str(path), columns) for item in shard(0)]


def test_items_come_by_shard_and_from_any_item_on(tmp_path):
    write_shards(tmp_path, 2, 3)
    items = read(tmp_path)
    assert keys(items) == ["0-0", "0-1", "0-2", "1-0", "1-1", "1-2"]
    assert items[4].captions == ("item 1-1",) and items[4].image == png(11)
    assert keys(tar_shards(str(tmp_path), Columns())[1](2)) == ["1-2"]


def test_folders_patterns_and_braces_name_the_same_shards(tmp_path):
    write_shards(tmp_path / "sub", 3, 1)
    folder, sub = str(tmp_path), tmp_path / "sub"
    assert keys(read(folder)) == keys(read(sub / "*.tar")) == keys(read(sub / "{00000..00002}.tar"))
    assert keys(read(sub / "{00001..00002}.tar")) == ["1-0", "2-0"]


def test_captions_from_json_and_named_fields(tmp_path):
    fields = json.dumps({"caption": "from json", "long": "a long one"}).encode()
    path = write_tar(tmp_path / "a.tar", {"x": {"jpg": png(1), "json": fields}, "y": {"webp": png(2), "json": fields}})
    assert [item.captions for item in read(path)] == [("from json",)] * 2
    assert read(path, Columns(caption="json.long"))[0].captions == ("a long one",)


def test_bad_samples_are_named_and_the_others_go_on(tmp_path):
    good = {"png": png(1), "txt": b"fine"}
    samples = {
        "first": good,
        "latin": {**good, "txt": b"caf\xe9"},
        "silent": {"png": png(1)},
        "blind": {"txt": b"no image"},
        "json": {"png": png(1), "json": b"{"},
        "last": good,
    }
    items = read(write_tar(tmp_path / "a.tar", samples))
    assert keys(items) == ["first", "last"]
    skipped = {str(item.path).rpartition("/")[2]: item.reason for item in items if isinstance(item, SkippedItem)}
    assert skipped["latin"] == "caption is not UTF-8 text (byte 0xe9)" and skipped["silent"] == "no caption"
    assert skipped["blind"] == "no image" and skipped["json"].startswith("its JSON cannot be read")


def test_samples_without_a_caption_have_the_default_one(tmp_path):
    samples = {f"{i}": {"png": png(i)} for i in range(shards_module.NUM_PROBED)}  # nothing that is looked at has one
    samples |= {
        "empty": {"png": png(1), "txt": b" \n"},
        "fields": {"png": png(1), "json": b'{"caption": null, "width": 16}'},
        "own": {"png": png(1), "json": b'{"caption": "my dog"}'},
        "latin": {"png": png(1), "txt": b"caf\xe9"},
        "number": {"png": png(1), "json": b'{"caption": 7}'},
        "broken": {"png": png(1), "json": b"{"},
        "blind": {"txt": b""},
    }
    path = write_tar(tmp_path / "a.tar", samples)
    for columns in (Columns(default="a dog"), Columns(caption="json.caption", default="a dog")):
        items = read(path, columns)
        found = {item.key: (item.captions, item.by_default) for item in items if isinstance(item, RawItem)}
        own = {"own": (("my dog",), False)}
        names = ["empty", "fields", *map(str, range(5))]
        names += ["latin"] if columns.caption else []  # its text is not asked for
        assert found == dict.fromkeys(names, (("a dog",), True)) | own
        skipped = {str(item.path).rpartition("/")[2]: item.reason for item in items if isinstance(item, SkippedItem)}
        assert skipped.keys() == {"latin", "number", "broken", "blind"} - set(names)
        assert skipped["number"] == "caption is not text but int" and skipped["blind"] == "no image"
    with pytest.raises(UserError, match="data.caption_column: .*a.tar has no column of a usual name"):
        read(path)


def test_a_file_too_large_for_memory_is_not_read(tmp_path, monkeypatch):
    samples = {"large": {"png": bytes(2000), "txt": b"x"}, "b": {"png": png(1), "txt": b"x"}}
    path = write_tar(tmp_path / "a.tar", samples)
    monkeypatch.setattr(shards_module, "MAX_BYTES", 1000)
    skipped, good = read(path)
    assert str(skipped) == f"{path}/large: no image" and good.key == "b"


@contextlib.contextmanager
def served(folder, handler_class=http.server.SimpleHTTPRequestHandler):
    """The URL of a folder."""
    handler = functools.partial(handler_class, directory=str(folder))
    handler_class.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def test_http(tmp_path):
    write_shards(tmp_path, 2, 2)
    with served(tmp_path) as url:
        assert keys(read(f"{url}/{{00000..00001}}.tar")) == ["0-0", "0-1", "1-0", "1-1"]
        with pytest.raises(UserError, match=r"data.path 'http.*missing.tar' cannot be read"):
            read(f"{url}/missing.tar")


class Breaking(http.server.SimpleHTTPRequestHandler):
    """Sends whole files, but only so many bytes at the requests in `breaks` (by number), and then closes or resets."""

    breaks: dict[int, int] = {}
    resets = False
    num_requests = 0

    def copyfile(self, source, outputfile):
        number = Breaking.num_requests
        Breaking.num_requests += 1
        outputfile.write(source.read(self.breaks.get(number, -1)))
        if number in self.breaks and self.resets:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


ITEM = 2048  # bytes of an item in a shard: two headers, two contents
IN_HEADER, IN_CONTENT = 3 * ITEM + 100, 3 * ITEM + 520


@pytest.fixture
def breaking(monkeypatch):
    """The first request, number 0, is that of the look at the first items."""
    waits = []
    monkeypatch.setattr(shards_module, "time", SimpleNamespace(sleep=waits.append))
    monkeypatch.setattr(Breaking, "num_requests", 0)

    def set_up(breaks, resets=False):
        monkeypatch.setattr(Breaking, "breaks", breaks)
        monkeypatch.setattr(Breaking, "resets", resets)
        return waits

    return set_up


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("size", [3 * ITEM, IN_HEADER, IN_CONTENT])
def test_a_remote_shard_that_breaks_off_goes_on_with_the_next_item(tmp_path, breaking, size, resets):
    write_shards(tmp_path, 1, 7)
    breaks = {1: size, 2: size, 3: ITEM}
    breaks |= {} if resets else {4: 5 * ITEM, 5: 5 * ITEM}  # a reset may lose what was sent before it
    waits = breaking(breaks, resets)
    with served(tmp_path, Breaking) as url:
        items = read(f"{url}/00000.tar")
    assert keys(items) == [f"0-{i}" for i in range(7)] and len(items) == 7
    assert len(waits) == 3 if resets else waits == [1.0, 2.0, 4.0, 1.0, 2.0]


def test_a_remote_shard_that_is_cut_off_for_good_ends_with_a_skipped_item(tmp_path, breaking):
    write_shards(tmp_path, 2, 7)
    waits = breaking({1: IN_CONTENT, 2: IN_CONTENT, 3: IN_CONTENT, 4: IN_CONTENT})
    with served(tmp_path, Breaking) as url:
        shards = tar_shards(f"{url}/{{00000..00001}}.tar", Columns())
        stream = ShardStream(shards)
        items = list(stream)
        assert keys(items) == ["0-0", "0-1", "0-2", *(f"1-{i}" for i in range(7))]
        assert waits == [1.0, 2.0, 4.0]
        assert str(items[3]).startswith(f"{url}/00000.tar: cut off or damaged after 3 items")
        breaking({i: IN_CONTENT for i in range(Breaking.num_requests, Breaking.num_requests + 4)})
        stream.state = {"epoch": 0, "shard": 0, "item": 4}  # after it
        assert keys(stream) == keys(items)[3:] and stream.state["epoch"] == 1


def test_a_remote_shard_that_cannot_be_reached_stops_the_run_and_a_local_one_is_read_once(tmp_path, breaking):
    path = write_shards(tmp_path, 1, 7) / "00000.tar"
    waits = breaking({})
    with served(tmp_path) as url:
        remote = tar_shards(f"{url}/00000.tar", Columns())[0]
    with pytest.raises(UserError, match="00000.tar' cannot be read .*Connection refused"):
        list(remote(0))
    assert waits == [1.0, 2.0, 4.0]
    shard = tar_shards(str(path), Columns())[0]
    os.truncate(path, IN_CONTENT)
    with pytest.raises(UserError, match="00000.tar' cannot be read .unexpected end of data"):
        list(shard(0))
    assert waits == [1.0, 2.0, 4.0]


def test_braces_of_tar_urls_ask_nothing_of_the_store(monkeypatch):
    asked = []
    system = fsspec.filesystem("memory")
    monkeypatch.setattr(type(system), "isdir", lambda self, path: asked.append(path))
    assert len(shards_module._list_urls("memory://set/{000..299}.tar")) == 300 and not asked
    assert shards_module._list_urls("memory://set") == ["memory://set"] and len(asked) == 1


def test_what_is_refused_before_training(tmp_path):
    with pytest.raises(UserError, match="no .tar shards there"):
        read(tmp_path)
    path = write_shards(tmp_path, 1, 3) / "00000.tar"
    with pytest.raises(UserError, match="data.caption_column: .*00000.tar has no column 'title'; it has png, txt"):
        read(path, Columns(caption="title"))
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UserError, match="00000.tar is cut off or no tar file"):
        read(tmp_path)

def test_a_shard_without_items_tells_nothing_of_the_columns(tmp_path):
    empty = write_tar(tmp_path / "00000.tar", {})
    with pytest.raises(UserError, match=r"no item in any of 1 shards; name others"):
        read(tmp_path)
    write_tar(tmp_path / "00002.tar", {"x": {"png": png(3), "title": b"third"}})
    (tmp_path / "00001.tar").write_bytes(empty.read_bytes())
    assert keys(read(tmp_path, Columns(caption="title"))) == ["x"]
    with pytest.raises(UserError, match="00002.tar has no column of a usual name .*; it has png, title"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["photos [v2]", "a*b", "{00000..00002}", "c::d"])
def test_a_path_that_exists_is_itself(tmp_path, name):
    write_shards(tmp_path / name, 2, 1)
    assert keys(read(tmp_path / name)) == ["0-0", "1-0"]
    (tmp_path / name / "00000.tar").rename(tmp_path / f"{name}.tar")
    assert keys(read(tmp_path / f"{name}.tar")) == ["0-0"]


def test_text_that_nothing_can_hold_is_skipped_by_name_and_a_mark_is_no_text(tmp_path):
    samples = {
        "half": {"png": png(1), "json": rb'{"caption": "a cat \ud83d"}'},
        "nul": {"png": png(1), "txt": b"a\0b"},
        "deep": {"png": png(1), "json": b"[" * 100_000},
        "digits": {"png": png(1), "json": b"9" * 5000},
        "mark": {"png": png(1), "txt": "\ufeffa cat".encode()},
        "other": {"png": png(1), "json": rb'{"caption": "a dog", "alt": "\ud83d"}'},
    }
    items = read(write_tar(tmp_path / "a.tar", samples))
    assert {item.key: item.captions for item in items if isinstance(item, RawItem)} == {
        "mark": ("a cat",),
        "other": ("a dog",),
    }
    half, nul, deep, digits = (str(item).removeprefix(f"{tmp_path}/a.tar/") for item in items[:4])
    assert half == r"half: caption holds half a character (\ud83d alone)"
    assert nul == "nul: caption holds a NUL character"
    assert deep == "deep: its JSON cannot be read (nested too deeply)" and digits.startswith("digits: its JSON cannot")


def test_a_folder_of_shards_that_cannot_be_read_whole_is_refused(tmp_path, locked_folder):
    write_shards(tmp_path, 1, 1)
    locked_folder(tmp_path / "sub")
    with pytest.raises(UserError, match="folder .*/sub: Permission denied, .*give access to it, or name"):
        read(tmp_path)


def test_s3_needs_a_package_and_credentials(monkeypatch):
    class NoCredentialsError(Exception):
        """As botocore's."""

    text = str(unreadable("s3://bucket/a.tar", NoCredentialsError("Unable to locate credentials")))
    assert "AWS_ACCESS_KEY_ID" in text and "Unable to locate credentials" in text
    monkeypatch.setitem(sys.modules, "s3fs", None)  # not to be imported, also where it is installed
    with pytest.raises(UserError, match=r"^s3fs is not installed: run `pip install 'e2ed2\[s3\]'`$"):
        read("s3://bucket/a.tar")


@pytest.mark.slow  # needs `pip install s3fs 'moto[s3]' flask flask-cors`
def test_s3(tmp_path, monkeypatch):
    server_of = pytest.importorskip("moto.server").ThreadedMotoServer
    s3fs, boto3 = pytest.importorskip("s3fs"), pytest.importorskip("boto3")
    server = server_of(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("HOME", str(tmp_path))  # no profile
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket="bucket")
    for path in write_shards(tmp_path / "shards", 3, 2).iterdir():
        client.upload_file(str(path), "bucket", f"set/{path.name}")
    whole = ["0-0", "0-1", "1-0", "1-1", "2-0", "2-1"]
    for name in ("set", "set/*.tar", "set/{00000..00002}.tar"):
        assert keys(read(f"s3://bucket/{name}")) == whole
    assert keys(read("s3://bucket/set/00001.tar")) == ["1-0", "1-1"]
    with pytest.raises(UserError, match="s3://bucket/none/.*: no .tar shards there"):
        read("s3://bucket/none/*.tar")
    with pytest.raises(UserError, match="s3://bucket/none.tar' cannot be read"):
        read("s3://bucket/none.tar")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match="Unable to locate credentials.*give access, for S3 by AWS_ACCESS_KEY_ID"):
        read("s3://bucket/set")
    server.stop()


@pytest.mark.parametrize(("num_processes", "num_shards"), [(2, 4), (2, 5), (3, 1)])
def test_processes_share_an_epoch_and_epochs_differ(tmp_path, num_processes, num_shards):
    write_shards(tmp_path, num_shards, 7)
    shards = tar_shards(str(tmp_path), Columns())
    streams = [ShardStream(shards, 1, rank, num_processes) for rank in range(num_processes)]
    epochs = [[keys(stream) for stream in streams] for _ in range(2)]
    for epoch in epochs:
        assert sorted(key for part in epoch for key in part) == sorted(keys(ShardStream(shards)))
        assert all(epoch)
    if num_shards > 1:
        assert epochs[0] != epochs[1]


@pytest.mark.parametrize("name", ["photos [v2]", "a*b", "of {0..3}", "what?"])
@pytest.mark.parametrize("pattern", ["*.tar", "{00000..00001}.tar", "0000?.tar*"])
def test_a_pattern_begins_where_the_path_ends(tmp_path, name, pattern):
    (tmp_path / name).mkdir()
    write_shards(tmp_path / name, 2, 1)
    assert keys(read(tmp_path / name / pattern)) == ["0-0", "1-0"]


@pytest.mark.parametrize("braces", ["{0..99999999}", "{000..999}{000..999}", f"{{0..{'9' * 18}}}", "{0..999}/{0..999}"])
def test_braces_for_more_shards_than_anybody_has_are_refused_at_once(tmp_path, braces):
    with pytest.raises(UserError, match="braces for .* shards, at most 100,000 are read"):
        tar_shards(f"{tmp_path}/{braces}.tar", Columns())


@pytest.mark.parametrize("name", ["00000.tar", "00009.tar"])
def test_a_pipe_among_shards_is_named(tmp_path, name):
    write_shards(tmp_path, 2, 1)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}: not a file but a pipe, a socket or a device: remove it"):
        tar_shards(str(tmp_path), Columns())


def test_braces_that_are_not_understood_say_how_they_are_written(tmp_path):
    for braces in ("{9..0}", "{a..c}", "{0,1}"):
        with pytest.raises(UserError, match="no .tar shards there; .*; braces are {low..high}, in digits, rising"):
            tar_shards(f"{tmp_path}/{braces}.tar", Columns())


@pytest.mark.parametrize("count", [0, 1, 21])
def test_a_shard_is_written_byte_for_byte_as_tarfile_writes_it(count, tmp_path):
    members = [(f"{number:05d}.bin", bytes([number]) * size) for number in range(count) for size in (0, 511, 512, 3000)]
    shards_module.write_tar(tmp_path / "ours.tar", members)
    with tarfile.open(tmp_path / "theirs.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    assert (tmp_path / "ours.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()


def test_files_that_are_passed_over_have_their_place_and_size(tmp_path):
    shards_module.write_tar(tmp_path / "a.tar", [("x.jpg", b"12345"), ("x.txt", b"words"), ("y.jpg", b"678")])
    every = list(shards_module.samples(str(tmp_path / "a.tar"), ["jpg"]))
    assert [(sample["__key__"], sample["jpg"]) for sample in every] == [("x", None), ("y", None)]
    assert every[0]["txt"] == b"words"
    content = (tmp_path / "a.tar").read_bytes()
    places = [sample[shards_module.PLACES]["jpg"] for sample in every]
    assert [content[offset : offset + size] for offset, size in places] == [b"12345", b"678"]
    (tmp_path / "a.tar").write_bytes(content[: places[1][0] + 1])
    with pytest.raises(tarfile.ReadError, match="unexpected end of data"):
        list(shards_module.samples(str(tmp_path / "a.tar"), ["jpg"]))
