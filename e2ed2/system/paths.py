"""Where downloaded, rendered or assembled things are kept between runs, and what belongs to the user."""

import os
from pathlib import Path

from e2ed2.system.errors import UserError


def cache_dir() -> Path:
    """The user's cache folder: `$E2ED2_CACHE`, else `~/.cache/e2ed2`. Created on first use.

    Raises:
        UserError: it cannot be made.
    """
    return _made("cache", "E2ED2_CACHE", ".cache")


def config_dir() -> Path:
    """The user's configuration folder, for nobody else to read: `$E2ED2_CONFIG`, else `~/.config/e2ed2`.

    Created on first use.

    Raises:
        UserError: it cannot be made.
    """
    return _made("configuration", "E2ED2_CONFIG", ".config", 0o700)


def _made(kind: str, variable: str, in_home: str, mode: int = 0o777) -> Path:
    """The folder that a variable of the environment names, else `e2ed2` in a folder of the user's home."""
    try:
        path = Path(os.environ.get(variable) or Path.home() / in_home / "e2ed2")
    except RuntimeError as error:
        raise UserError(f"{kind} folder: this user has no home; set {variable} to a folder") from error
    try:
        path.mkdir(mode, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{kind} folder {path}: {error.strerror}; set {variable} to another") from error
    return path
