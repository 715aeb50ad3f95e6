"""The app: its routes, and what is answered where there is none."""

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from e2ed2.system.errors import UserError
from e2ed2.system.server.app import app_of
from e2ed2.system.server.guard import Guard
from e2ed2.web.app import home, one, starting, trying
from e2ed2.web.app.desk import Desk
from e2ed2.web.app.door import Door
from e2ed2.web.app.pages import page, static_files


def create_app(runs: Path, token: str, key: bytes) -> ASGIApp:
    """The whole app over a folder of runs; what a run needs is in its own process."""
    app = app_of((home.routes, one.routes, trying.routes, starting.routes), static_files, _refuse)
    app.state.desk = Desk(runs)
    app.add_exception_handler(UserError, _refuse)
    return Guard(Door(app, token, key, runs))


def _refuse(request: Request, error: Exception) -> Response:
    """A page for a person, a line for our own script."""
    status = error.status_code if isinstance(error, HTTPException) else 422
    what = "There is nothing here." if status == 404 else str(getattr(error, "detail", error))
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"error": what}, status)
    return page("error.html.j2", status, what=what)
