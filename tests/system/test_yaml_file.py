"""Reading YAML: what is refused, and that merged keys may be set again."""

import pytest

from e2ed2.system.errors import UserError
from e2ed2.system.yaml_file import read_yaml


def test_a_key_may_replace_a_merged_one_and_return_in_another_section(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: [{<<: *a, y: 5}, {x: 6}]\n1: 7\n'1': 8")
    a, b = {"x": 1, "y": 2}, {"x": 3, "y": 2}
    assert read_yaml(path, "suite", "recipes/") == {"a": a, "b": b, "c": [{"x": 1, "y": 5}, {"x": 6}], 1: 7, "1": 8}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: 2\na: 1", "line 3, column 1: 'a' is given twice"),
        (b"- {b: 1, c: {d: 1, d: 2}}", "line 1, column 20: 'd' is given twice"),
        (b"? [a]\n: 1\n", "line 1, column 3: found unhashable key"),
        (b"a: [", "line 1, column 5: expected the node content"),
        (b"a: !!python/none", "line 1, column 4: could not determine a constructor"),
        (b"a: \x01", "#x0001"),
        (b"\xff\xfe\x00", "utf-8"),
        (b"2024-13-45", "month must be in 1..12"),
    ],
)
def test_what_is_no_yaml_is_one_line_that_says_where(tmp_path, content, message):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^suite .*a\.yaml: not YAML \(.*{message}.*\); see recipes/ for examples$"):
        read_yaml(path, "suite", "recipes/")
    with pytest.raises(UserError, match="^suite .*: Is a directory; see recipes/ for examples$"):
        read_yaml(tmp_path, "suite", "recipes/")
