"""Where downloaded, rendered or assembled things are kept between runs, and what belongs to the user."""

import os
from pathlib import Path

from e2ed2.system.errors import UserError


def cache_dir() -> Path:
    """The user's cache folder: `$E2ED2_CACHE`, else `~/.cache/e2ed2`. Created on first use.

    Raises:
        UserError: it cannot be made.
    """
    path = _named("E2ED2_CACHE", ".cache")
    make_folder(path, "cache", "E2ED2_CACHE")
    return path


def config_dir() -> Path:
    """The user's configuration folder: `$E2ED2_CONFIG`, else `~/.config/e2ed2`. Whoever writes there makes it.

    Raises:
        UserError: this user has no home.
    """
    return _named("E2ED2_CONFIG", ".config")


def make_folder(path: Path, kind: str, variable: str, mode: int = 0o777) -> None:
    """Make a folder of a `kind` that a variable of the environment may name, where it is not there yet.

    Raises:
        UserError: it cannot be made.
    """
    try:
        path.mkdir(mode, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{kind} folder {path}: {error.strerror}; set {variable} to another") from error


def _named(variable: str, in_home: str) -> Path:
    """The folder that a variable of the environment names, else `e2ed2` in a folder of the user's home."""
    try:
        return Path(os.environ.get(variable) or Path.home() / in_home / "e2ed2")
    except RuntimeError as error:
        raise UserError(f"this user has no home folder; set {variable} to a folder") from error
