"""Where downloaded, rendered or assembled things are kept between runs."""

import os
from pathlib import Path

from e2ed2.system.errors import UserError


def cache_dir() -> Path:
    """The user's cache folder: `$E2ED2_CACHE`, else `~/.cache/e2ed2`. Created on first use.

    Raises:
        UserError: it cannot be made.
    """
    path = Path(os.environ.get("E2ED2_CACHE") or Path.home() / ".cache" / "e2ed2")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cache folder {path}: {error.strerror}; set E2ED2_CACHE to another") from error
    return path
