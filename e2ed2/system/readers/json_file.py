"""JSON from outside, as plain values within bounds or as a typed object; all else is one line."""

import json
import math
from pathlib import Path
from typing import Any

from e2ed2.system.errors import UserError, said
from e2ed2.system.readers.text import decode_text, fit_text, read_bytes
from e2ed2.system.readers.typed import M, check_fields, checked

MAX_DEPTH = 64
MAX_DIGITS = 40  # of a whole number


def parse_json(content: str | bytes, *, finite: bool = False) -> Any:
    """The values of a JSON text.

    Args:
        finite: refuse NaN and what is infinite, which no JSON that is written anew can hold.
    Raises:
        ValueError: no JSON, no UTF-8, nested too deeply, or a number or text that nothing can hold.
    """
    text = decode_text(content) if isinstance(content, bytes) else content
    try:
        number = _finite if finite else float
        return fit_values(json.loads(text, parse_int=_whole_number, parse_float=number, parse_constant=number))
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels") from None


def read_json(path: Path, kind: str, remedy: str) -> Any:
    """The values of a JSON file.

    Args:
        kind, remedy: for the message: what the file is, and what to do.
    Raises:
        UserError: cannot be read, or as `parse_json`.
    """
    content = read_bytes(path, kind, remedy)
    try:
        return parse_json(content)
    except ValueError as error:
        raise UserError(f"{kind} {path}: not readable as JSON ({said(error)}); {remedy}") from error


def read_fields(path: Path, kind: str, remedy: str) -> dict[str, Any]:
    """The values of a JSON file by their names.

    Raises:
        UserError: as `read_json`; or it holds no fields.
    """
    values = read_json(path, kind, remedy)
    check_fields(values, f"{kind} {path}", remedy)
    return values


def read_typed(path: Path, model: type[M], kind: str, remedy: str) -> M:
    """A JSON file as the object it holds.

    Raises:
        UserError: as `read_json`; or a field that is missing or of another type, by its name.
    """
    return checked(model, read_json(path, kind, remedy), f"{kind} {path}", remedy)


def fit_values(value: Any, most: int | None = None) -> Any:
    """The value itself, from any reader.

    Args:
        most: values that there may be, those that a YAML alias repeats counted again; None: any number.
    Raises:
        ValueError: deeper than `MAX_DEPTH` (what holds itself too), a key that is no text, a text that does not fit
            (`fit_text`), a whole number of more than `MAX_DIGITS` digits, or too many values.
    """
    stack, count = [(value, 0)], 0
    while stack:
        inner, depth = stack.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH} levels, or holds itself")
        if most is not None and count > most:
            raise ValueError(f"more than {most:,} values")
        if isinstance(inner, dict):
            for key in inner:
                if not isinstance(key, str):
                    raise ValueError(f"the key {key!r} is no text; put it in quotes")
                fit_text(key)
            stack += [(child, depth + 1) for child in inner.values()]
        elif isinstance(inner, list | tuple | set):
            stack += [(child, depth + 1) for child in inner]
        elif isinstance(inner, str):
            fit_text(inner)
        elif isinstance(inner, int) and abs(inner) >= 10**MAX_DIGITS:
            raise ValueError(f"a number of more than {MAX_DIGITS} digits")
    return value


def _whole_number(digits: str) -> int:
    if len(digits) > MAX_DIGITS + 1:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no finite number")
    return number
