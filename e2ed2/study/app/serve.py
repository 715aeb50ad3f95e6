"""The server: opens folder, database and port, each with a clear word where that fails; serves until stopped."""

import sys
from collections.abc import Callable
from pathlib import Path

from e2ed2.study.app.build import create_app
from e2ed2.study.folder import LINKS_FILE, read_study
from e2ed2.study.store import Store, default_url
from e2ed2.system.server.listen import listening, serve_on

SWITCH_SECONDS = 0.0005  # a thread that has written a vote gets the interpreter back at once, not after ten pages


def serve(folder: Path, *, host: str, port: int, database_url: str | None, say: Callable[[str], None]) -> None:
    """Serve a study until Ctrl-C.

    Args:
        database_url: as `Store`; None for SQLite in the folder.
        say: hears where the organiser's page is, once the server listens.
    Raises:
        UserError: no study, a database that cannot be used, or a port in use.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    study = read_study(folder)
    with listening(host, port) as listener:
        store = Store(database_url or default_url(folder), study.id, list(study.raters))
        try:
            address = f"http://{host}:{listener.getsockname()[1]}"
            say(f"organiser: {address}/organiser\nraters:    {address}, then a link of {folder / LINKS_FILE}")
            serve_on(listener, create_app(study, store))
        finally:
            store.close()
