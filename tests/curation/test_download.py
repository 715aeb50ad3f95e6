"""Addresses of a server that misbehaves: each ends in the manifest with its reason. Private ones are never asked."""

import socket
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from e2ed2.curation.pipeline import DownloadConfig
from e2ed2.curation.web.addresses import Refused, is_public, resolve
from e2ed2.curation.web.fetch import Fetcher, split
from tests.curation.conftest import pipeline_of, run
from tests.curation.hostile import serving

FATES = {  # path -> (stage, reason), None: kept
    "/a.jpg": None,
    "/busy.jpg": None,
    "/to//b.jpg": None,
    "/c d%20\u00e9.jpg?x=1&y=\u00fc": None,
    "/status/404": ("download", "HTTP 404"),
    "/status/500": ("download", "HTTP 500"),
    "/page.jpg": ("download", "HTML instead of an image"),
    "/lying.jpg": ("check", "not an image"),
    "/empty.jpg": ("check", "empty file"),
    "/cut.jpg": ("check", "cannot be decoded"),
    "/moving.gif": ("check", "animated"),
    "/bomb.png": ("check", "more than 100 megapixels"),
    "/slow/head": ("download", "takes too long"),
    "/slow/body": ("download", "takes too long"),
    "/silent.jpg": ("download", "takes too long"),
    "/endless.jpg": ("download", "more than 1 MB"),
    "/announced.jpg": ("download", "more than 1 MB"),
    "/broken.jpg": ("download", "breaks off"),
    "/garbage.jpg": ("download", "no answer in HTTP: BadStatusLine"),
    "/round/0": ("download", "more than 5 redirects"),
    "/to/http://127.0.0.2/x.jpg": ("download", "a private address"),
    "/to/http://localhost:1/x.jpg": ("download", "a private address"),
    "/to/http://169.254.169.254/latest/meta-data/": ("download", "a private address"),
    "/to/http://[::ffff:10.0.0.1]/x.jpg": ("download", "a private address"),
    "/to/http://2130706433/x.jpg": ("download", "a private address"),
    "/to/file:///etc/passwd": ("download", "no address of the web"),
    "/to//secret/x.jpg": ("download", "robots.txt does not allow it"),
    "/secret/x.jpg": ("download", "robots.txt does not allow it"),
    "/ours/x.jpg": ("download", "robots.txt does not allow it"),
    "/ours/x.png": None,
    "/ours/y.jpg ": ("download", "robots.txt does not allow it"),
    "/noai.jpg": ("download", "its owner says noai"),
    "/noimageai.jpg": ("download", "its owner says noimageai"),
    "/reserved.jpg": ("download", "its owner reserves text and data mining"),
}
OTHERS = {
    "http://10.1.2.3/x.jpg": ("download", "a private address"),
    "http://nowhere.invalid/x.jpg": ("download", "its name has no address"),
    "ftp://example.org/x.jpg": ("download", "no address of the web"),
    "not an address": ("download", "no address of the web"),
    "http://[::1": ("download", "no address of the web"),
    "": ("read", "no image and no address"),
}


LOOK_UP = socket.getaddrinfo  # before tests are kept from asking other machines


@pytest.fixture
def numbers_are_known(monkeypatch):
    """An address in digits needs no look-up, in whatever form of them."""
    names = socket.getaddrinfo

    def look_up(host, *args, **options):
        try:
            return LOOK_UP(host, *args, **options, flags=socket.AI_NUMERICHOST)
        except OSError:
            return names(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.usefixtures("numbers_are_known")
def test_every_address_ends_in_the_manifest_with_its_reason(tmp_path):
    with serving() as server, serving(robots=500) as closed:
        urls = {f"http://{server.host}{path}": fate for path, fate in FATES.items()} | OTHERS
        urls[f"http://{closed.host}/x.jpg"] = ("download", "robots.txt: HTTP 500")
        rows = {"key": [str(n) for n in range(len(urls))], "url": [*urls], "TEXT": ["words"] * len(urls)}
        pq.write_table(pa.table(rows), tmp_path / "urls.parquet")
        limits = "{per_host: 64, read_timeout: 1, total_timeout: 2, max_megabytes: 1, retries: 1, "
        pipeline = pipeline_of(
            tmp_path / "out", "input.source=parquet", f"input.path={tmp_path / 'urls.parquet'}", "deduplicate=null",
            f"download={limits}allowed_hosts: ['{server.host}', '{closed.host}']}}",
        )  # fmt: skip
        start = time.monotonic()
        found = run(pipeline)
        assert time.monotonic() - start < 20
    told = {}
    for url, row in zip(urls, found.values(), strict=True):
        assert row["source"] == url or not url
        told[url] = None if row["kept"] else (row["stage"], row["reason"].partition(": ")[0])
    expected = {url: fate and (fate[0], fate[1].partition(": ")[0]) for url, fate in urls.items()}
    assert told == expected
    assert server.asked["/busy.jpg"] == 2 and server.asked["/status/404"] == 1 and server.asked["/status/500"] == 2
    assert server.asked["/robots.txt"] == 1
    assert not any("secret" in path and not path.startswith("/to/") for path in server.asked)
    assert closed.asked == {"/robots.txt": 1}


@pytest.mark.parametrize(
    ("address", "is_ours"),
    [
        ("127.0.0.1", True), ("10.0.0.1", True), ("192.168.1.1", True), ("172.16.0.1", True), ("169.254.169.254", True),
        ("100.64.0.1", True), ("0.0.0.0", True), ("224.0.0.1", True), ("::1", True), ("fe80::1%eth0", True),
        ("fc00::1", True), ("::ffff:127.0.0.1", True), ("64:ff9b::7f00:1", True), ("2002:7f00:1::", True),
        ("::127.0.0.1", True), ("8.8.8.8", False), ("2606:4700::1111", False), ("::ffff:8.8.8.8", False),
        ("64:ff9b::808:808", False), ("fec0::1", True), ("::ffff:0:127.0.0.1", True), ("64:ff9b:1::7f00:1", True),
        ("3fff::1", True), ("4000::1", True), ("::8.8.8.8", True), ("2002:808:808::1", False),
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_known_in_every_dress(address, is_ours):
    assert is_public(address) is not is_ours


def test_the_address_that_was_checked_is_the_one_that_is_asked(monkeypatch):
    """A name that leads elsewhere when it is asked for again."""
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    connected = []

    def lookup(host, port, **kind):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answers.pop(0)]

    def connect(address, timeout):
        connected.append(address)
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(Refused, match="no connection: refused"):
        Fetcher(DownloadConfig()).fetch("http://rebinds.example/x.jpg", split, 100, time.monotonic() + 5)
    assert connected == [("93.184.216.34", 80)] and len(answers) == 1
    answers[:] = [["93.184.216.34", "10.0.0.1"]]
    with pytest.raises(Refused, match="a private address"):  # one of several is enough
        resolve("both.example", 80)
