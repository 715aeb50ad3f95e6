"""Captions of a folder: text files, metadata as JSON lines or CSV, and text that nothing can hold."""

import csv
import json
from pathlib import Path

import pytest

from e2ed2.data.sources.columns import Columns
from e2ed2.data.sources.folder import FolderSource
from e2ed2.system.errors import UserError
from tests.data.test_folder import BLUE, load, pixel, reasons, write_pair


def write_jsonl(folder: Path, *rows: object) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


# A folder with metadata


def test_jsonl_captions(tmp_path):
    write_pair(tmp_path, "sub/a.png", caption=None, color=BLUE)
    write_pair(tmp_path, "b.png", caption="not this one")
    row = {"file_name": "sub/a.png", "text": "blue sky", "score": 3}
    write_jsonl(tmp_path, row, "", {"file_name": "b.png", "text": "x"})
    data = load(tmp_path, 0.0)
    assert data.keys == ["sub/a.png", "b.png"] and data.captions == ["blue sky", "x"]
    assert pixel(data.images[0]) == BLUE


def test_csv_captions_with_byte_order_mark_and_quoted_commas(tmp_path):
    write_pair(tmp_path, "a.png", caption=None)
    rows = [["file_name", "text"], ["a.png", "red, round\nand ripe"], ["b.png", "gone"]]
    with (tmp_path / "metadata.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(rows)
    data = load(tmp_path)
    assert data.captions == ["red, round and ripe"]
    assert reasons(data) == {"b.png": "named in metadata.csv:4, but missing"}


def test_bad_metadata_rows_are_skipped_with_their_line(tmp_path):
    for name in ("a.png", "blank.png", "number.png", "nothing.png", "unlisted.png"):
        write_pair(tmp_path, name)
    outside = write_pair(tmp_path.parent, "outside.png")
    write_jsonl(
        tmp_path,
        {"file_name": "a.png", "text": "first"},
        {"file_name": "a.png", "text": "second"},
        {"file_name": "blank.png", "text": ""},
        {"file_name": "number.png", "text": 7},
        {"file_name": "nothing.png"},
        {"text": "no name"},
        "{broken",
        "[]",
        {"file_name": "../outside.png", "text": "x"},
        {"file_name": str(outside), "text": "x"},
    )
    data = load(tmp_path)
    assert data.captions == ["first"]
    assert reasons(data) == {
        "metadata.jsonl:2": "file_name 'a.png' is listed before; the first row counts",
        "blank.png": "metadata.jsonl:3: caption is empty",
        "number.png": "metadata.jsonl:4: caption is not text but int",
        "nothing.png": "metadata.jsonl:5: no caption",
        "metadata.jsonl:6": "no file_name",
        "metadata.jsonl:7": "not a JSON object",
        "metadata.jsonl:8": "not a JSON object",
        "metadata.jsonl:9": "file_name '../outside.png' lies outside the folder",
        "metadata.jsonl:10": f"file_name '{outside}' lies outside the folder",
        "unlisted.png": "no row in metadata.jsonl",
    }


def test_unreadable_metadata_is_refused(tmp_path):
    write_pair(tmp_path, "a.png")
    metadata = tmp_path / "metadata.csv"
    metadata.write_text("file_name,title\na.png,red\n")
    with pytest.raises(UserError, match="needs the columns file_name and text, but has: file_name, title"):
        load(tmp_path)
    metadata.write_text(f"file_name,text\na.png,{'x' * 200_000}\n")
    with pytest.raises(UserError, match=r"metadata.csv:2: field larger than field limit \(131072\); mend it"):
        load(tmp_path)
    metadata.write_bytes(b"")
    with pytest.raises(UserError, match="needs the columns file_name and text, but has: ; data.caption_column"):
        load(tmp_path)
    write_jsonl(tmp_path, {"file_name": "a.png", "text": "red"})
    with pytest.raises(UserError, match="keep one of them"):
        load(tmp_path)


def test_the_caption_column_is_detected_or_named(tmp_path):
    write_pair(tmp_path, "a.png", caption=None)
    write_jsonl(tmp_path, {"file_name": "a.png", "caption": "red", "title": "An apple"})
    assert FolderSource(tmp_path)[0].captions == ("red",)
    assert FolderSource(tmp_path, Columns(caption="title"))[0].captions == ("An apple",)


def test_several_captions_come_as_a_list_or_as_lines(tmp_path):
    write_pair(tmp_path, "a.png", caption="red\n\n a  round apple\n")
    assert FolderSource(tmp_path)[0].captions == ("red a round apple",)
    assert FolderSource(tmp_path, Columns(caption_per_line=True))[0].captions == ("red", "a round apple")
    write_jsonl(tmp_path, {"file_name": "a.png", "text": ["red", "", "an apple"]})
    assert FolderSource(tmp_path)[0].captions == ("red", "an apple")


# Text that nothing can hold


def test_captions_in_text_files(tmp_path):
    contents = {
        "good": b"a cat",
        "mark": b"\xef\xbb\xbfa cat",
        "nul": b"a\0cat",
        "cp1252": b"first\ncaf\xe9",
        "half": b"a cat \xed\xa0\xbd",
    }
    for name, content in contents.items():
        write_pair(tmp_path, f"{name}.png").with_suffix(".txt").write_bytes(content)
    data = load(tmp_path)
    assert dict(zip(data.keys, data.captions, strict=True)) == {"good.png": "a cat", "mark.png": "a cat"}
    assert reasons(data) == {
        "nul.png": "nul.txt: caption holds a NUL character",
        "cp1252.png": "cp1252.txt: caption line 2 is not UTF-8 text (byte 0xe9)",
        "half.png": "half.txt: caption is not UTF-8 text (byte 0xed)",
    }


def test_rows_of_json_lines(tmp_path):
    lines = [
        b'\xef\xbb\xbf{"file_name": "a.png", "text": "a cat"}',
        rb'{"file_name": "half.png", "text": "a cat \ud83d"}',
        rb'{"file_name": "nul.png", "text": "a\u0000cat"}',
        rb'{"file_name": "other.png", "text": "a dog", "alt": "\ud83d"}',
        b'{"file_name": "cp1252.png", "text": "caf\xe9"}',
        b'{"file_name": "deep.png", "text": ' + b"[" * 100_000,
        b'{"file_name": "digits.png", "text": "x", "n": ' + b"9" * 5000 + b"}",
        json.dumps({"file_name": "e" * 300, "text": "x"}).encode(),
        rb'{"file_name": "x\u0000\ud83d", "text": "x"}',
        b'"a text"',
    ]
    (tmp_path / "metadata.jsonl").write_bytes(b"\n".join(lines))
    for name in ("a", "half", "nul", "other"):
        write_pair(tmp_path, f"{name}.png", caption=None)
    data = load(tmp_path)
    assert dict(zip(data.keys, data.captions, strict=True)) == {"a.png": "a cat", "other.png": "a dog"}
    found = reasons(data)
    assert found.pop("metadata.jsonl:7").startswith("Exceeds the limit (4300 digits)")
    assert found == {
        "half.png": r"metadata.jsonl:2: caption holds half a character (\ud83d alone)",
        "nul.png": "metadata.jsonl:3: caption holds a NUL character",
        "metadata.jsonl:5": "is not UTF-8 text (byte 0xe9)",
        "metadata.jsonl:6": "nested too deeply",
        "e" * 300: "named in metadata.jsonl:8, but missing",
        "x\0\ud83d": "named in metadata.jsonl:9, but missing",
        "metadata.jsonl:10": "not a JSON object",
    }
    assert str(data.skipped[-2]).endswith("/x??: named in metadata.jsonl:9, but missing")


def test_rows_of_csv(tmp_path):
    rows = [b"a.png,a cat,1", b"nul.png,a\0cat,1", b"cp1252.png,caf\xe9,1", b"other.png,a dog,caf\xe9\0", b"short.png"]
    (tmp_path / "metadata.csv").write_bytes(b"\xef\xbb\xbffile_name,text,n\r\n" + b"\r\n".join(rows))
    for name in ("a", "nul", "cp1252", "other", "short"):
        write_pair(tmp_path, f"{name}.png", caption=None)
    data = load(tmp_path)
    assert dict(zip(data.keys, data.captions, strict=True)) == {"a.png": "a cat", "other.png": "a dog"}
    assert reasons(data) == {
        "nul.png": "metadata.csv:3: caption holds a NUL character",
        "cp1252.png": "metadata.csv:4: caption is not UTF-8 text (byte 0xe9)",
        "short.png": "metadata.csv:6: no caption",
    }


def test_a_quote_left_open_in_csv_is_no_caption(tmp_path):
    for name in ("a", "b", "c"):
        write_pair(tmp_path, f"{name}.png", caption=None)
    (tmp_path / "metadata.csv").write_text('file_name,text\na.png,x\nb.png,"y\nc.png,z\n')
    data = load(tmp_path)
    assert data.captions == ["x"]
    assert reasons(data) == {
        "metadata.csv:4": "a quote that nothing closes",
        "b.png": "no row in metadata.csv",
        "c.png": "no row in metadata.csv",
    }
