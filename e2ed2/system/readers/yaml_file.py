"""YAML that people write. A key given twice is a mistake, of which YAML's own reader silently drops the first."""

from pathlib import Path
from typing import Any

import yaml

from e2ed2.system.errors import UserError
from e2ed2.system.readers.json_file import MAX_DEPTH, fit_values
from e2ed2.system.readers.text import read_text
from e2ed2.system.readers.typed import MAX_SHOWN

MAX_LETTERS = 2**20  # of a file; a recipe has a thousand
MAX_VALUES = 100_000


def read_yaml(path: Path, kind: str, examples: str | Path) -> Any:
    """The content of a YAML file.

    Args:
        kind, examples: for the message: what the file is, and where some lie.
    Raises:
        UserError: cannot be read, or as `parse_yaml`.
    """
    remedy = f"see {examples} for examples"
    text = read_text(path, kind, remedy)
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise UserError(f"{kind} {path}: not YAML ({error}); {remedy}") from error


def parse_yaml(text: str) -> Any:
    """The values of a YAML text.

    Raises:
        ValueError: not YAML, a key twice in one section, an anchor that holds itself, or as `json_file.fit_values`.
    """
    if len(text) > MAX_LETTERS:
        raise ValueError(f"{len(text):,} letters, at most {MAX_LETTERS:,} are read")
    try:
        return fit_values(yaml.load(text, _UniqueKeys), MAX_VALUES)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem}") from error
    except yaml.YAMLError as error:  # a character that no YAML text holds
        raise ValueError(" ".join(str(error).split())) from error


class _UniqueKeys(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1  # told before the parser is there: its time grows with the square of the depth
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=self.get_mark())
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key that is no text", problem_mark=key.start_mark)
            if (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' is given twice", problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        node.value = [*{(key.tag, key.value): (key, value) for key, value in node.value}.values()]  # or merges multiply

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            what = f"{str(node.value)[:MAX_SHOWN]!r} is no {kind}"
            raise yaml.MarkedYAMLError(problem=what, problem_mark=node.start_mark) from error
