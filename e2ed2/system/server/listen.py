"""A server of pages on a port, until Ctrl-C."""

import socket

import uvicorn
from starlette.types import ASGIApp

from e2ed2.system.errors import UserError, check_range

STOP_SECONDS = 5  # for requests under way, once it is told to stop


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any that is free.

    Raises:
        UserError: out of range, in use, or not ours to open.
    """
    check_range("--port", port, 0, 65_535)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        raise UserError(f"--port {port}: cannot be opened on {host} ({error.strerror}); give another") from error
    return listener


def serve_on(listener: socket.socket, app: ASGIApp) -> None:
    """Answer requests until Ctrl-C."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=STOP_SECONDS
    )
    uvicorn.Server(config).run(sockets=[listener])
