"""The server of `e2ed2 watch`: bound to this machine alone, until Ctrl-C."""

from collections.abc import Callable
from pathlib import Path

from e2ed2.system.errors import UserError
from e2ed2.system.server.listen import listening, serve_on
from e2ed2.web.app.build import create_app
from e2ed2.web.app.door import TOKEN, new_token, users_key

HOST = "127.0.0.1"


def serve(runs: Path, *, port: int, say: Callable[[str], None]) -> None:
    """Serve the runs of a folder.

    Args:
        port: 0 takes any that is free. say: hears the address, once the server listens.
    Raises:
        UserError: a file in the place of the folder, or a port in use.
    """
    if runs.exists() and not runs.is_dir():
        raise UserError(f"RUNS '{runs}': a file; name the folder that your runs are in")
    token, key = new_token(), users_key()
    with listening(HOST, port) as listener:
        app = create_app(runs, token, key)
        if not runs.is_dir():
            say(f"note: {runs} is not there yet; it is made with the first run")
        say(f"{runs}: http://{HOST}:{listener.getsockname()[1]}/?{TOKEN}={token}")
        serve_on(listener, app)
