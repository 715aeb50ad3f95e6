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


# A default caption

DEFAULT = Columns(default="a photo of sks dog")


def captioned(source: FolderSource) -> dict[str, tuple[tuple[str, ...], bool]]:
    """key -> captions, and whether they are the default."""
    items = [source[row] for row in range(len(source))]
    assert [item.by_default for item in items] == [source.is_by_default(row) for row in range(len(source))]
    return {item.key: (item.captions, item.by_default) for item in items}


def why_skipped(source: FolderSource) -> dict[str, str]:
    return {Path(item.path).name: item.reason for item in source.skipped}


BY_DEFAULT = (("a photo of sks dog",), True)


def test_an_image_without_a_text_or_with_an_empty_one_has_the_default_caption(tmp_path):
    write_pair(tmp_path, "own.png", "my dog")
    write_pair(tmp_path, "same.png", "a photo of sks dog")
    write_pair(tmp_path, "none.png", caption=None)
    write_pair(tmp_path, "sub/empty.png", caption="")
    write_pair(tmp_path, "blank.png", caption="\ufeff \n\t\n")
    write_pair(tmp_path, "latin.png").with_suffix(".txt").write_bytes(b"caf\xe9")
    write_pair(tmp_path, "nul.png").with_suffix(".txt").write_bytes(b"\0")
    write_pair(tmp_path, "folder.png", caption=None).with_suffix(".txt").mkdir()
    write_pair(tmp_path, "gone.png", caption=None).with_suffix(".txt").symlink_to("nowhere")
    (tmp_path / "shot.heic").touch()
    (tmp_path / "link.png").symlink_to("nowhere")
    source = FolderSource(tmp_path, DEFAULT)
    assert captioned(source) == {
        "own.png": (("my dog",), False),
        "same.png": (("a photo of sks dog",), False),
        **dict.fromkeys(["none.png", "sub/empty.png", "blank.png"], BY_DEFAULT),
    }
    without = FolderSource(tmp_path)
    assert list(captioned(without)) == ["own.png", "same.png"] and without.default_caption is None
    found, before = why_skipped(source), why_skipped(without)
    replaced = {name: before.pop(name) for name in ("none.png", "empty.png", "blank.png")}
    assert found == before
    assert list(found) == ["folder.png", "gone.png", "latin.png", "link.png", "nul.png", "shot.heic"]
    assert replaced == {
        "none.png": "no caption: none.txt is missing",
        "empty.png": "empty.txt: caption is empty",
        "blank.png": "blank.txt: caption is empty",
    }
    assert found["gone.png"] == "no caption: gone.txt is missing", "a link that leads nowhere is not without a caption"


@pytest.mark.parametrize("per_line", [False, True])
def test_images_that_metadata_do_not_caption_have_the_default_caption(tmp_path, per_line):
    for name in ("own", "null", "blank", "bare", "list", "number", "surrogate", "unlisted"):
        write_pair(tmp_path, f"{name}.png", caption="not this one")
    (tmp_path / "shot.heic").touch()
    (tmp_path / "link.png").symlink_to("nowhere")
    write_jsonl(
        tmp_path,
        {"file_name": "own.png", "text": "my dog"},
        {"file_name": "null.png", "text": None},
        {"file_name": "blank.png", "text": " "},
        {"file_name": "bare.png"},
        {"file_name": "list.png", "text": ["", " "]},
        {"file_name": "number.png", "text": 7},
        r'{"file_name": "surrogate.png", "text": "a \ud83d"}',
        {"file_name": "own.png", "text": ""},
    )
    source = FolderSource(tmp_path, Columns(caption_per_line=per_line, default=DEFAULT.default))
    named = ["null.png", "blank.png", "bare.png", "list.png", "unlisted.png"]
    assert captioned(source) == {"own.png": (("my dog",), False), **dict.fromkeys(named, BY_DEFAULT)}
    assert why_skipped(source) == {
        "number.png": "metadata.jsonl:6: caption is not text but int",
        "surrogate.png": r"metadata.jsonl:7: caption holds half a character (\ud83d alone)",
        "metadata.jsonl:8": "file_name 'own.png' is listed before; the first row counts",
        "shot.heic": ".heic images are not read: convert it to PNG or JPEG, or remove it",
        "link.png": "a link that leads nowhere, or no file",
    }


@pytest.mark.parametrize("row", ["{broken", "[]", '{"text": "whose?"}', '{"file_name": "", "text": "whose?"}'])
def test_where_a_row_does_not_say_its_file_no_image_is_known_to_have_no_caption(tmp_path, row):
    write_pair(tmp_path, "a.png", caption=None)
    write_pair(tmp_path, "b.png", caption=None)
    write_jsonl(tmp_path, row, {"file_name": "b.png"})
    source = FolderSource(tmp_path, DEFAULT)
    assert captioned(source) == {"b.png": BY_DEFAULT}
    assert list(why_skipped(source)) == ["metadata.jsonl:1", "a.png"]


def test_csv_needs_no_captions_beside_a_default(tmp_path):
    for name in ("a", "b", "c", "latin"):
        write_pair(tmp_path, f"{name}.png", caption=None)
    metadata = tmp_path / "metadata.csv"
    metadata.write_bytes(b"file_name,text\na.png,\nb.png\nlatin.png,caf\xe9\n")
    source = FolderSource(tmp_path, DEFAULT)
    assert captioned(source) == dict.fromkeys(["a.png", "b.png", "c.png"], BY_DEFAULT)
    assert why_skipped(source) == {"latin.png": "metadata.csv:4: caption is not UTF-8 text (byte 0xe9)"}
    metadata.write_text("file_name,size\nb.png,3\n")
    keys = ["b.png", "a.png", "c.png", "latin.png"]
    assert captioned(FolderSource(tmp_path, DEFAULT)) == dict.fromkeys(keys, BY_DEFAULT)
    metadata.write_text("name,text\nb.png,x\n")
    with pytest.raises(UserError, match="needs the columns file_name and text, but has: name, text"):
        FolderSource(tmp_path, DEFAULT)


def test_the_fingerprint_changes_with_the_captions(tmp_path):
    write_pair(tmp_path, "a.png", "my dog")
    prints = {FolderSource(tmp_path, columns).fingerprint() for columns in (Columns(), DEFAULT)}
    assert len(prints) == 1, "no caption is another"
    write_pair(tmp_path, "b.png", caption=None)
    for columns in (Columns(), DEFAULT, Columns(default="a dog")):
        prints.add(FolderSource(tmp_path, columns).fingerprint())
    assert len(prints) == 3, "b.png is skipped, as before, or has one of two captions"
