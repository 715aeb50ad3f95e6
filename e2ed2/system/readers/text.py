"""Text from outside: UTF-8 with or without a byte-order mark, and nothing else.

What is wrong is said with its line. The caller decides what follows: a training skips such a caption, all else ends.
"""

import codecs
from pathlib import Path

from e2ed2.system.errors import UNPRINTABLE, UserError
from e2ed2.system.files import ENDLESS, is_endless

MAX_BYTES = 2**28  # of one file; COCO's captions are an eighth of it


def fit_text(text: str) -> str:
    """The text itself.

    Raises:
        ValueError: it holds a lone surrogate (half of an emoji, cut off) or a NUL.
    """
    if (found := UNPRINTABLE.search(text)) is not None:
        raise ValueError(f"a text holds {_named(found[0])}")
    return text


def decode_text(content: bytes) -> str:
    """The text of a file's bytes, without the mark.

    Raises:
        ValueError: not UTF-8, or it holds a NUL; says in which line.
    """
    try:
        text = content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(f"line {line} is not UTF-8 text (byte 0x{content[error.start]:02x})") from None
    if (found := UNPRINTABLE.search(text)) is not None:
        line = text[: found.start()].count("\n") + 1
        raise ValueError(f"line {line} holds {_named(found[0])}")
    return text


def read_text(path: Path, kind: str, remedy: str = "save it as UTF-8 text") -> str:
    """The text of a file.

    Args:
        kind, remedy: for the message: what the file is, and what to do.
    Raises:
        UserError: cannot be read, over `MAX_BYTES`, or as `decode_text`.
    """
    content = read_bytes(path, kind, remedy)
    try:
        return decode_text(content)
    except ValueError as error:
        raise UserError(f"{kind} {path}: {error}; {remedy}") from None


def read_bytes(path: Path, kind: str, remedy: str) -> bytes:
    """A file's content, in bounded memory, whatever the path names.

    Raises:
        UserError: cannot be read, or over `MAX_BYTES`.
    """
    try:
        if is_endless(path):
            raise ValueError(ENDLESS)
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path that holds a NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{kind} {path}: {reason}; {remedy}") from error
    if len(content) > MAX_BYTES:
        raise UserError(f"{kind} {path}: over {MAX_BYTES >> 20} MiB; {remedy}")
    return content


def lines_of(text: str) -> list[str]:
    """Ended by newlines alone: a caption may hold the other characters at which `str.splitlines` ends one."""
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def _named(character: str) -> str:
    return "a NUL character" if character == "\0" else f"half a character (\\u{ord(character):x} alone)"
