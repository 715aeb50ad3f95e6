"""One run: what it is doing, its page, its previews; stop, and go on."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from e2ed2.models.folders.parts import INDEX_FILE
from e2ed2.reports.previews import find_previews
from e2ed2.reports.run_page import NO_COMPARISON, facts, run_values
from e2ed2.reports.run_state import CONSOLE_FILE, last_lines, told
from e2ed2.system.errors import UserError
from e2ed2.system.server.forms import Fields
from e2ed2.web.app.desk import AtDesk, Desk, run_dir
from e2ed2.web.app.home import written_page
from e2ed2.web.app.pages import Part, page, text_of
from e2ed2.web.beside import tables_of
from e2ed2.web.painter import OF_A_RUN

STATE_EVERY = 2.0  # seconds
routes = APIRouter()


@routes.get("/run/{name:path}")
def run(desk: AtDesk, name: str) -> Response:
    """The page of a run."""
    folder = run_dir(desk, name)
    return page(
        "one.html.j2", here="", name=name, run_dir=folder, state_part=_state(desk, name), body=_body(desk, name),
        has_report=(folder / "report.html").is_file(),
    )  # fmt: skip


@routes.get("/state/{name:path}")
def state(request: Request, desk: AtDesk, name: str) -> Response:
    """What a run is doing: a small read, so that it can be asked often."""
    return _state(desk, name).answer(request)


@routes.get("/body/{name:path}")
def body(request: Request, desk: AtDesk, name: str) -> Response:
    """All else of a run."""
    return _body(desk, name).answer(request)


@routes.get("/report/{name:path}")
def report(desk: AtDesk, name: str) -> Response:
    """The page that the run wrote itself, which may say more: a comparison with its start."""
    return written_page(run_dir(desk, name) / "report.html")


@routes.get("/picture/{step:int}/{row:int}/{column:int}/{name:path}")
def picture(desk: AtDesk, step: int, row: int, column: int, name: str) -> Response:
    """A picture of a preview."""
    found, _ = find_previews(run_dir(desk, name) / "samples")
    try:
        assert found is not None
        content = found.picture(step, row, found.form[row][1][column])
    except (AssertionError, KeyError, IndexError, OSError):
        raise HTTPException(404) from None
    return Response(content, media_type="image/webp", headers={"cache-control": "private, max-age=60"})


@routes.post("/stop")
def stop(desk: AtDesk, fields: Fields) -> Response:
    """Tell a run to save and to end."""
    name = fields.get("run", "")
    desk.processes.stop(name, told(run_dir(desk, name)))
    return RedirectResponse(f"/run/{name}", 303)


@routes.post("/go-on")
def go_on(desk: AtDesk, fields: Fields) -> Response:
    """Take a run up where it stopped."""
    name = fields.get("run", "")
    desk.painter.forget()
    desk.processes.go_on(name, run_dir(desk, name))
    return RedirectResponse(f"/run/{name}", 303)


def _state(desk: Desk, name: str) -> Part:
    desk.processes.reap()
    folder = run_dir(desk, name)
    found = told(folder)
    rows = [found.row] if found.row else []
    models = [f"{name}/{part}" for part in OF_A_RUN if (folder / part / INDEX_FILE).is_file()]
    text = text_of(
        "one_state.html.j2", name=name, state=found, facts=facts(found, rows), model=next(iter(models), ""),
        output=last_lines(folder / CONSOLE_FILE), can_go_on=desk.processes.can_go_on(folder, found),
        can_stop=desk.processes.can_stop(found),
    )  # fmt: skip
    return Part(text, str(hash(text)), STATE_EVERY)


def _body(desk: Desk, name: str) -> Part:
    folder = run_dir(desk, name)

    def address(step: int, row: int, column: str) -> str:
        columns = found.form[row][1] if found else []
        return f"/picture/{step}/{row}/{columns.index(column)}/{name}"

    def render() -> str:
        comparison: dict[str, Any] = {**NO_COMPARISON}
        try:
            comparison |= {"tables": tables_of([folder / "metrics.json"]), "made_by": "e2ed2 watch"}
        except UserError as error:
            comparison |= {"problems": [str(error)]}
        values = run_values(folder, comparison, rows=desk.runs.rows(name), address=address)
        return text_of("run.html.j2", **values)

    found, paths = find_previews(folder / "samples")
    version = str(hash((_stamp(folder), told(folder).doing, *paths)))
    return desk.parts.get(f"body {name}", version, render)


def _stamp(folder: Path) -> tuple[int, ...]:
    """Changes with what the page of a run reads."""
    names = ("metrics.jsonl", "config.yaml", "data_summary.json", "metrics.json", "evaluation", "model")
    return tuple(path.stat().st_mtime_ns if (path := folder / name).exists() else 0 for name in names)
