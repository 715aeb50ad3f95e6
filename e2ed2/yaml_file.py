"""YAML that people write: a key given twice is a mistake, of which YAML's own reader silently drops the first."""

from pathlib import Path
from typing import Any

import yaml

from e2ed2.errors import UserError


def read_yaml(path: Path, kind: str, examples: str | Path) -> Any:
    """The content of a YAML file.

    Args:
        kind, examples: for the message: what the file is, and where some lie.
    Raises:
        UserError: cannot be read, not UTF-8 or not YAML, or a key twice in one section.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except OSError as error:
        problem = str(error.strerror)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = f"not YAML ({where}{error.problem})"
    except (yaml.YAMLError, ValueError) as error:  # no text at all; a date that does not exist
        problem = f"not YAML ({' '.join(str(error).split())})"
    raise UserError(f"{kind} {path}: {problem}; see {examples} for examples")


class _UniqueKeys(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' is given twice", problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node
