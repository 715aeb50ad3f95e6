"""Files that are served as they are, by name: no path of a request ever meets the disk."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from starlette.responses import Response

KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
A_YEAR = 365 * 24 * 3600  # seconds


class StaticFiles:
    """The files of some paths, read once; their addresses change with their content."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._files = {path.name: path.read_bytes() for path in paths if path.suffix in KINDS}

    def __getitem__(self, name: str) -> bytes:
        return self._files[name]

    def add(self, name: str, content: bytes) -> None:
        """One more, of a name that ends in one of `KINDS`."""
        self._files[name] = content

    def address(self, name: str) -> str:
        """Where a page finds a file."""
        return f"/static/{name}?{hashlib.sha256(self._files[name]).hexdigest()[:12]}"

    def response(self, name: str) -> Response | None:
        """A file; None where there is none of that name."""
        if (content := self._files.get(name)) is None:
            return None
        headers = {"cache-control": f"public, max-age={A_YEAR}, immutable"}
        return Response(content, media_type=KINDS[Path(name).suffix], headers=headers)
