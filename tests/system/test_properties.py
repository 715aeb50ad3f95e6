"""What holds for any text, JSON or YAML whatever: read back as it was written, or refused by the error that is told.

`hypothesis` looks for what breaks it, and makes it small; `make fuzz` lets it look longer.
"""

import json
import os
import string

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from e2ed2.provenance.metadata import read_metadata
from e2ed2.recipe.load import apply_override
from e2ed2.system.drawing.pictures import MAX_LINES, font, wrapped
from e2ed2.system.errors import STEERING, UserError, one_line, printable, said
from e2ed2.system.readers.json_file import parse_json
from e2ed2.system.readers.text import decode_text, fit_text, lines_of
from e2ed2.system.readers.yaml_file import parse_yaml

EXAMPLES = int(100 * float(os.environ.get("E2ED2_FUZZ", 1)))
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXTS = st.text(LETTERS, max_size=40)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SIMPLE = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | FINITE | TEXTS
VALUES = st.recursive(SIMPLE, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4))
ANY_TEXT = st.text(st.characters(), max_size=60)  # lone surrogates and NUL too
SYNTAX = st.text("{}[]:,-!&*|>'\"#%@`?\\ \n\tabc019.~<=", max_size=60)

looked_at = settings(max_examples=EXAMPLES, deadline=None, derandomize="E2ED2_FUZZ" not in os.environ)


@looked_at
@given(VALUES)
def test_mangled_by_chance_json_is_read_back(values):
    assert parse_json(json.dumps(values)) == values
    assert parse_json(json.dumps(values, ensure_ascii=False).encode("utf-8-sig")) == values


@looked_at
@given(st.dictionaries(st.text(string.ascii_letters, min_size=1), st.lists(SIMPLE, max_size=4), max_size=4))
def test_mangled_by_chance_yaml_is_read_back(values):
    values = {f"a{name}": inner for name, inner in values.items()}  # no key that YAML takes for true or null
    try:
        assert parse_yaml(yaml.safe_dump(values)) == values
    except ValueError as error:
        assert "digits" in str(error) or "special characters" in str(error)


@looked_at
@given(ANY_TEXT | SYNTAX | st.binary(max_size=60))
def test_mangled_by_chance_anything_is_read_or_refused(content):
    for read in (parse_json, *((parse_yaml, fit_text) if isinstance(content, str) else (decode_text,))):
        try:
            read(content)
        except ValueError as error:
            line = one_line(error)
            assert line.encode() and "\n" not in line and not STEERING.search(line)


@looked_at
@given(ANY_TEXT | SYNTAX)
def test_mangled_by_chance_an_override_sets_one_field_or_is_refused(text):
    values = {"train": {"lr": 1.0}}
    try:
        apply_override(values, text)
    except UserError as error:
        assert "\n" not in str(error) and values == {"train": {"lr": 1.0}}


@looked_at
@given(ANY_TEXT)
def test_mangled_by_chance_what_is_shown_is_on_one_line_and_steers_nothing(text):
    shown = printable(text)
    assert shown.isprintable() and printable(shown) == shown
    for line in (one_line(text), said(ValueError(text))):
        line.encode()
        assert "\n" not in line and not STEERING.search(line)
    lines = wrapped(text, 90)
    assert len(lines) <= MAX_LINES and all(len(line) == 1 or font().getlength(line) <= 90 for line in lines)


@looked_at
@given(TEXTS)
def test_mangled_by_chance_lines_are_those_that_newlines_end(text):
    assert "\n".join(lines_of(text)) + "\n" in (text.replace("\r\n", "\n"), text.replace("\r\n", "\n") + "\n")


class Texts:
    """Stands in for a decoded PNG file."""

    def __init__(self, text: object, packet: object) -> None:
        self.text, self.info = {"e2ed2": text}, {"xmp": packet}


@looked_at
@given(ANY_TEXT | SYNTAX | VALUES.map(json.dumps), st.binary(max_size=60) | ANY_TEXT)
def test_mangled_by_chance_metadata_is_ours_or_none(text, packet):
    found = read_metadata(Texts(text, packet))  # type: ignore[arg-type]
    assert found is None or isinstance(found.get("generated"), bool) or list(found) == ["digital_source_type"]


def test_a_property_that_fails_is_found():
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @given(TEXTS)
    def no_text_holds_an_a(text):
        assert "a" not in text.lower()

    with pytest.raises(AssertionError):
        no_text_holds_an_a()
