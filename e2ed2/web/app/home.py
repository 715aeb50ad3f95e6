"""The list of runs, and what lies beside them: evaluations, comparisons; runs side by side."""

import time
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from e2ed2.system.errors import UserError
from e2ed2.web.app.desk import AtDesk, Desk, run_dir
from e2ed2.web.app.pages import Part, page, text_of
from e2ed2.web.beside import side_by_side, tables_of
from e2ed2.web.runs import COMPARISON, EVALUATION

MOST_BESIDE = 8  # runs
AGES = 30.0  # seconds after which it says anew how long ago things changed
LATEST = 5.0  # seconds after which a list is made anew, however long it takes
# A page that a run wrote may be anybody's: it runs in a sandbox of its own, and reaches nothing.
SANDBOX = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; sandbox allow-scripts"
)
routes = APIRouter()


@routes.get("/")
def home(desk: AtDesk) -> Response:
    """The list of runs."""
    return page("home.html.j2", here="runs", part=_list(desk), folder=desk.runs.folder)


@routes.get("/list")
def list_part(request: Request, desk: AtDesk) -> Response:
    """What of it changes."""
    return _list(desk).answer(request)


@routes.get("/beside")
def beside(desk: AtDesk, run: Annotated[list[str] | None, Query()] = None) -> Response:
    """Two runs or more side by side."""
    names = list(dict.fromkeys(run or []))
    if not 2 <= len(names) <= MOST_BESIDE:
        raise HTTPException(422, f"Choose 2 to {MOST_BESIDE} runs in the list, to see them side by side.")
    for name in names:
        run_dir(desk, name)
    return page("beside.html.j2", here="", **side_by_side(desk.runs, names))


@routes.get("/measured/{name:path}")
def measured(desk: AtDesk, name: str) -> Response:
    """An evaluation that lies outside of runs."""
    folder = _other(desk, name)
    try:
        tables = tables_of([folder / EVALUATION])
    except UserError as error:
        raise HTTPException(422, str(error)) from error
    return page("measured.html.j2", here="", name=name, tables=tables)


@routes.get("/compared/{name:path}")
def compared(desk: AtDesk, name: str) -> Response:
    """A page that `e2ed2 compare` wrote."""
    return written_page(_other(desk, name) / COMPARISON)


def written_page(path: Path) -> Response:
    """A page from a folder, which may have come from anywhere."""
    if not path.is_file() or path.is_symlink():
        raise HTTPException(404)
    return FileResponse(path, media_type="text/html", headers={"content-security-policy": SANDBOX})


def _other(desk: Desk, name: str) -> Path:
    try:
        return desk.runs.other(name)
    except KeyError:
        raise HTTPException(404) from None


def _list(desk: Desk) -> Part:
    desk.processes.reap()
    found = desk.runs.listing()
    version = str(hash((str(found), time.time() // AGES)))
    return desk.parts.get("list", version, lambda: text_of("list.html.j2", found=found), most=LATEST)
