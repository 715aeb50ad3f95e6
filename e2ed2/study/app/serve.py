"""The server: opens folder, database and port, each with a clear word where that fails; serves until stopped."""

import socket
import sys
from collections.abc import Callable
from pathlib import Path

import uvicorn

from e2ed2.study.app.build import create_app
from e2ed2.study.folder import LINKS_FILE, read_study
from e2ed2.study.store import Store, default_url
from e2ed2.system.errors import UserError, check_range

STOP_SECONDS = 5  # for requests under way, once it is told to stop
SWITCH_SECONDS = 0.0005  # a thread that has written a vote gets the interpreter back at once, not after ten pages


def serve(folder: Path, *, host: str, port: int, database_url: str | None, say: Callable[[str], None]) -> None:
    """Serve a study until Ctrl-C.

    Args:
        database_url: as `Store`; None for SQLite in the folder.
        say: hears where the organiser's page is, once the server listens.
    Raises:
        UserError: no study, a database that cannot be used, or a port in use.
    """
    check_range("--port", port, 0, 65_535)
    sys.setswitchinterval(SWITCH_SECONDS)
    study = read_study(folder)
    store = Store(database_url or default_url(folder), study.id, list(study.raters))
    try:
        with _listening(host, port) as listener:
            address = f"http://{host}:{listener.getsockname()[1]}"
            say(f"organiser: {address}/organiser\nraters:    {address}, then a link of {folder / LINKS_FILE}")
            config = uvicorn.Config(
                create_app(study, store), log_level="warning", access_log=False, server_header=False,
                timeout_graceful_shutdown=STOP_SECONDS,
            )  # fmt: skip
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        store.close()


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        raise UserError(f"--port {port}: cannot be opened on {host} ({error.strerror}); give another") from error
    return listener
