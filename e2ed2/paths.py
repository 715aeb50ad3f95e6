"""Where downloaded, rendered or assembled things are kept between runs."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """The user's cache folder: `$E2ED2_CACHE`, else `~/.cache/e2ed2`. Created on first use."""
    path = Path(os.environ.get("E2ED2_CACHE") or Path.home() / ".cache" / "e2ed2")
    path.mkdir(parents=True, exist_ok=True)
    return path
