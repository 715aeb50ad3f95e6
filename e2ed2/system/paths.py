"""Where downloaded, rendered or assembled things are kept between runs, and what belongs to the user."""

import os
from pathlib import Path

from e2ed2.system.errors import UserError


def cache_dir() -> Path:
    """The user's cache folder: `$E2ED2_CACHE`, else `~/.cache/e2ed2`. Created on first use.

    Raises:
        UserError: it cannot be made.
    """
    path = Path(os.environ.get("E2ED2_CACHE") or Path.home() / ".cache" / "e2ed2")
    return _made(path, "cache", "E2ED2_CACHE")


def config_dir() -> Path:
    """The user's configuration folder, for nobody else to read: `$E2ED2_CONFIG`, else `~/.config/e2ed2`.

    Created on first use.

    Raises:
        UserError: it cannot be made.
    """
    path = Path(os.environ.get("E2ED2_CONFIG") or Path.home() / ".config" / "e2ed2")
    return _made(path, "configuration", "E2ED2_CONFIG", 0o700)


def _made(path: Path, kind: str, variable: str, mode: int = 0o777) -> Path:
    try:
        path.mkdir(mode, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{kind} folder {path}: {error.strerror}; set {variable} to another") from error
    return path
