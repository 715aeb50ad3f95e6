"""The app of one study: its routes, and what is answered where there is none."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from e2ed2.study.app import organiser, rater
from e2ed2.study.app.door import Door
from e2ed2.study.app.live import Agreement
from e2ed2.study.app.organiser import Desk
from e2ed2.study.app.pages import page, static_files
from e2ed2.study.app.rater import NO_LINK
from e2ed2.study.folder import Study
from e2ed2.study.store import Store
from e2ed2.system.server.app import app_of
from e2ed2.system.server.guard import Guard


def create_app(study: Study, store: Store) -> ASGIApp:
    """The whole app; it keeps nothing in memory that a kill could lose."""
    app = app_of((rater.routes, organiser.outside, organiser.inside), static_files, _refuse)
    app.state.study, app.state.store = study, store
    app.state.desk = Desk(study, store, Door(study.secret), Agreement(study, store))
    return Guard(app)


def _refuse(request: Request, error: Exception) -> Response:
    """A page for a person, one word for our own script."""
    assert isinstance(error, HTTPException)
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    why = "link" if error.detail == NO_LINK else "page" if error.status_code == 404 else "refused"
    return page(request, "error.html.j2", error.status_code, why=why)
