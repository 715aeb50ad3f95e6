"""Readers of text, JSON and typed objects: what is read, what is refused and in which words, whatever is mangled."""

import json
import os
from pathlib import Path

import pytest
import yaml

from e2ed2.system.errors import UserError
from e2ed2.system.readers import text as text_module
from e2ed2.system.readers.json_file import fit_values, parse_json, read_json, read_typed
from e2ed2.system.readers.text import decode_text, fit_text, lines_of, read_text
from e2ed2.system.readers.typed import Part, Record, checked
from e2ed2.system.readers.yaml_file import parse_yaml
from tests.mangle import mangled_bytes, mangled_json, mangled_values, share_taken


class Inner(Part):
    size: int


class Outer(Part):
    name: str
    parts: list[Inner] = []
    rate: float = 1.0


class Written(Record):
    step: int


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a\nb", "a\nb"),
        (b"\xef\xbb\xbfa cat", "a cat"),
        ("é 🐱\u2028x".encode(), "é 🐱\u2028x"),
        (b"", ""),
    ],
)
def test_utf_8_with_or_without_a_mark_is_text(content, expected):
    assert decode_text(content) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\n\xe9t\xe9", "line 3 is not UTF-8 text (byte 0xe9)"),  # cp1252
        ("a cat".encode("utf-16"), "line 1 is not UTF-8 text (byte 0xff)"),
        (b"a\nb\0c", "line 2 holds a NUL character"),
        (b"a\n\xed\xa0\xbd", "line 2 is not UTF-8 text (byte 0xed)"),  # half of an emoji
    ],
)
def test_anything_else_is_named_with_its_line(content, message):
    with pytest.raises(ValueError) as error:
        decode_text(content)
    assert str(error.value) == message


def test_half_a_character_is_no_text():
    assert fit_text("a cat 🐱") == "a cat 🐱"
    with pytest.raises(ValueError, match=r"a text holds half a character \(\\ud83d alone\)"):
        fit_text("a cat \ud83d")
    with pytest.raises(ValueError, match=r"a text holds half a character \(\\ud83d alone\)"):
        parse_json('{"text": "a cat \\ud83d"}')
    assert parse_json('"a cat \\ud83d\\udc31"') == "a cat 🐱"


def test_lines_end_at_newlines_alone():
    assert lines_of("one\x0bx\r\ntwo\u2028y\n") == ["one\x0bx", "two\u2028y"]


def test_a_file_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    for path, reason in (
        (tmp_path / "none", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / "a\0b", "embedded null byte"),
        (tmp_path / "x\ud800", r"(No such file or directory|surrogates not allowed)"),
    ):
        with pytest.raises(UserError, match=f"^prompts .*: .*{reason}.*; give another$") as error:
            read_text(path, "prompts", "give another")
        str(error.value).encode()
    (tmp_path / "large").write_bytes(b"x" * 101)
    monkeypatch.setattr(text_module, "MAX_BYTES", 100)
    with pytest.raises(UserError, match="large: over 0 MiB"):
        read_text(tmp_path / "large", "prompts")


def test_what_never_ends_or_never_begins_is_not_read(monkeypatch, tmp_path):
    large, pipe = tmp_path / "large", tmp_path / "pipe"
    large.write_bytes(bytes(1001))
    os.mkfifo(pipe)
    monkeypatch.setattr(text_module, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match="prompts .*large: over 0 MiB"):
        read_text(large, "prompts")
    for path in (pipe, Path("/dev/zero")):
        with pytest.raises(UserError, match=f"prompts {path}: not a file but a pipe, a socket or a device"):
            read_text(path, "prompts")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 5000 + "]" * 5000, "nested deeper than 64 levels"),
        ("[" * 70 + "]" * 70, "nested deeper than 64 levels"),
        ('{"a": ' + "9" * 5000 + "}", "a number of 5000 digits"),
        ('{"a": 1', "delimiter"),
        ('{"a": "\\u0000"}', "NUL"),
        ("", "Expecting value"),
    ],
)
def test_json_beyond_bounds_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        parse_json(content)


def test_json_within_bounds_is_read():
    values = {"a": [1, 2.5, None, True, "x"], "n": 10**30, "inf": float("-inf")}  # diffusers writes -Infinity
    assert parse_json(json.dumps(values)) == values
    assert parse_json(json.dumps(values).encode()) == values


def test_what_holds_itself_is_refused():
    loop: list = []
    loop.append(loop)
    with pytest.raises(ValueError, match="holds itself"):
        fit_values(loop)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "x.json: name is missing; mend it"),
        ({"name": 3}, "x.json: name: .*valid string, found 3; mend it"),
        ({"name": "a", "parts": [{"size": 1}, {"size": "y"}]}, "x.json: parts.1.size: .*found 'y'; mend it"),
        ({"name": "a", "nam": 1}, "x.json: nam: Extra inputs are not permitted, found 1; mend it"),
        ({"name": "a", "rate": float("nan")}, "x.json: rate: .*finite number, found nan; mend it"),
        (None, "x.json: must hold fields, found nothing; mend it"),
        ([1], "x.json: must hold fields, found list; mend it"),
        ({"name": ["x" * 500]}, r"x.json: name: .*found \['x{70,78}\.\.\.; mend it"),
    ],
)
def test_values_that_do_not_fit_name_the_field(values, message):
    with pytest.raises(UserError, match=f"^{message}$"):
        checked(Outer, values, "x.json", "mend it")


def test_what_programs_write_is_not_guessed_and_keeps_what_later_versions_add():
    assert checked(Written, {"step": 3, "new": [1]}, "state").model_dump() == {"step": 3, "new": [1]}
    for wrong in ("3", 3.0, True, None):
        with pytest.raises(UserError, match="state: step: "):
            checked(Written, {"step": wrong}, "state")


def test_mangled_files_are_read_or_refused_in_one_line(tmp_path):
    values = {"name": "a", "parts": [{"size": 1}, {"size": 2}], "rate": 0.5}
    path = tmp_path / "x.json"

    def read():
        try:
            parse_yaml(read_text(path, "recipe"))
        except ValueError as error:
            raise UserError(str(error)) from error

    def damage_json(rng):
        path.write_bytes(mangled_json(values, rng))

    def damage_yaml(rng):
        path.write_bytes(mangled_bytes("a: &x [1, 2]\nb: {<<: {c: *x}}\n# é\nd: 2024-01-01\n".encode(), rng))

    def damage_values(rng):
        path.write_text(yaml.safe_dump(mangled_values(values, rng), allow_unicode=False))

    assert 0 < share_taken(damage_json, lambda: read_typed(path, Outer, "thing", "mend it"), 150) < 1
    assert 0 < share_taken(damage_json, lambda: read_json(path, "thing", "mend it"), 150) < 1
    assert 0 < share_taken(damage_yaml, read, 150) < 1
    assert 0 < share_taken(damage_values, read, 150) < 1
