"""Reading YAML: what is refused, and that merged keys may be set again."""

import pytest

from e2ed2.system.errors import UserError
from e2ed2.system.readers.yaml_file import parse_yaml, read_yaml

LAUGHS = "b0: &b0 [1]\n" + "".join(f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 4)}]\n" for i in range(1, 20))


def test_a_key_may_replace_a_merged_one_and_return_in_another_section(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: [{<<: *a, y: 5}, {x: 6}]\n'1': 8")
    a, b = {"x": 1, "y": 2}, {"x": 3, "y": 2}
    assert read_yaml(path, "suite", "recipes/") == {"a": a, "b": b, "c": [{"x": 1, "y": 5}, {"x": 6}], "1": 8}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: 2\na: 1", "line 3, column 1: 'a' is given twice"),
        (b"- {b: 1, c: {d: 1, d: 2}}", "line 1, column 20: 'd' is given twice"),
        (b"? [a]\n: 1\n", "line 1, column 3: a key that is no text"),
        (b"a: 1\n1: 7", "the key 1 is no text; put it in quotes"),
        (b"a: !!bool banana", "line 1, column 4: 'banana' is no bool"),
        (b"a: &x [*x]", "nested deeper than 64 levels, or holds itself"),
        (b"a: &x {b: *x}", "nested deeper than 64 levels, or holds itself"),
        (b"a: " + b"[" * 20_000, "line 1, column .*: nested deeper than 64 levels"),
        (b"a: " + b"9" * 5000, "is no int"),
        (b"a: " + b"9" * 100, "a number of more than 40 digits"),
        (b'a: "\\0"', "a text holds a NUL character"),
        (b'a: "\\ud83d"', "a text holds half a character .*ud83d alone"),
        (LAUGHS.encode(), "more than 100,000 values"),
        (b"a: [", "line 1, column 5: expected the node content"),
        (b"a: !!python/none", "line 1, column 4: could not determine a constructor"),
        (b"a: \x01", "#x0001"),
        (b"2024-13-45", "line 1, column 1: '2024-13-45' is no timestamp"),
    ],
)
def test_what_is_no_yaml_is_one_line_that_says_where(tmp_path, content, message):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^suite .*a\.yaml: not YAML \(.*{message}.*\); see recipes/ for examples$"):
        read_yaml(path, "suite", "recipes/")
    with pytest.raises(UserError, match="^suite .*: Is a directory; see recipes/ for examples$"):
        read_yaml(tmp_path, "suite", "recipes/")


def test_what_is_no_text_is_said_with_its_line(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(UserError, match=r"^suite .*a\.yaml: line 2 is not UTF-8 text \(byte 0xff\); see"):
        read_yaml(path, "suite", "recipes/")
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(path, "suite", "recipes/") == {"a": 1}, "a mark is not text"


def test_merges_of_merges_do_not_multiply():
    lines = ["a0: &a0 {k: 1}"] + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 40)]
    assert parse_yaml("\n".join(lines))["a39"] == {"k": 1}
