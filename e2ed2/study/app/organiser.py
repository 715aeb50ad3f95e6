"""The organiser's page: how far raters are, raised hands and replies, links, pause, export."""

import math
import time
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from e2ed2.study.app.door import SESSION_SECONDS, Door, new_token
from e2ed2.study.app.live import Agreement, live_values
from e2ed2.study.app.pages import language_of, languages, page
from e2ed2.study.export import votes_of
from e2ed2.study.folder import Study
from e2ed2.study.store import Store
from e2ed2.study.votes import to_csv, to_parquet
from e2ed2.system.server.forms import Fields

HOME, COOKIE = "/organiser", "organiser"
LONGEST_REPLY = 2000  # letters
EXPORTS = {"csv": (to_csv, "text/csv; charset=utf-8"), "parquet": (to_parquet, "application/vnd.apache.parquet")}


@dataclass(frozen=True)
class Desk:
    """What the organiser's requests are about; one for all of them."""

    study: Study
    store: Store
    door: Door
    agreement: Agreement


def _desk(request: Request) -> Desk:
    return request.app.state.desk


def _is_inside(request: Request) -> bool:
    token = request.cookies.get(COOKIE, "")
    return bool(token) and _desk(request).store.is_session(token)


def _must_be_inside(request: Request) -> None:
    if not _is_inside(request):
        raise HTTPException(403, "sign in")


AtDesk = Annotated[Desk, Depends(_desk)]


def _known(desk: AtDesk, name: str) -> str:
    if name not in desk.study.raters:
        raise HTTPException(404)
    return name


Name = Annotated[str, Depends(_known)]
outside, inside = APIRouter(), APIRouter(prefix=HOME, dependencies=[Depends(_must_be_inside)])


@outside.get("/")
def root() -> Response:
    """Leads to the organiser's page."""
    return RedirectResponse(HOME, 303)


@outside.get(HOME)
def home(request: Request, desk: AtDesk) -> Response:
    """The organiser's page, or where to sign in."""
    if not _is_inside(request):
        return page(request, "sign_in.html.j2", problem="")
    return page(request, "organiser.html.j2", **live_values(desk.study, desk.store, desk.agreement))


@outside.post(f"{HOME}/sign-in")
def sign_in(request: Request, desk: AtDesk, fields: Fields) -> Response:
    """Take a password."""
    words = languages()[language_of(request)]["organiser"]
    is_right = desk.door.try_password(fields.get("password", ""))
    if is_right is None:
        wait = math.ceil(max(1.0, desk.door.wait()))
        response = page(request, "sign_in.html.j2", 429, problem=words["wait"].format(seconds=wait))
        response.headers["retry-after"] = str(wait)
        return response
    if not is_right:
        return page(request, "sign_in.html.j2", 403, problem=words["wrong"])
    token = new_token()
    desk.store.begin_session(token, SESSION_SECONDS)
    entry = RedirectResponse(HOME, 303)
    entry.set_cookie(
        COOKIE, token, max_age=int(SESSION_SECONDS), httponly=True, samesite="strict",
        secure=request.url.scheme == "https", path=HOME,
    )  # fmt: skip
    return entry


@inside.post("/sign-out")
def sign_out(request: Request, desk: AtDesk) -> Response:
    """End the session."""
    desk.store.end_session(request.cookies[COOKIE])
    response = RedirectResponse(HOME, 303)
    response.delete_cookie(COOKIE, path=HOME)
    return response


@inside.get("/live")
def live(request: Request, desk: AtDesk) -> Response:
    """What of the page changes."""
    return page(request, "live.html.j2", **live_values(desk.study, desk.store, desk.agreement))


@inside.post("/pause")
def pause(desk: AtDesk, fields: Fields) -> Response:
    """Stop the study, or let it go on."""
    desk.store.pause(fields.get("paused") == "1")
    return RedirectResponse(HOME, 303)


@inside.post("/raters/{name}/revoke")
def revoke(desk: AtDesk, name: Name) -> Response:
    """Make a rater's link useless."""
    desk.store.revoke(name)
    return RedirectResponse(HOME, 303)


@inside.post("/raters/{name}/link")
def renew(desk: AtDesk, name: Name) -> Response:
    """Give a rater a new link."""
    desk.store.issue_link(name)
    return RedirectResponse(HOME, 303)


@inside.post("/hands/{number:int}/reply")
def reply(desk: AtDesk, number: int, fields: Fields) -> Response:
    """Answer a raised hand."""
    text = fields.get("text", "").strip()
    if not text or len(text) > LONGEST_REPLY or "\0" in text:  # PostgreSQL holds no NUL
        raise HTTPException(422, "a reply has 1 to 2,000 letters, and no NUL")
    desk.store.reply(number, text)
    return RedirectResponse(HOME, 303)


@inside.get("/votes.{kind}")
def export(desk: AtDesk, kind: str) -> Response:
    """The votes as a file."""
    if kind not in EXPORTS:
        raise HTTPException(404)
    write, media_type = EXPORTS[kind]
    name = f"votes-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.{kind}"
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(write(votes_of(desk.study, desk.store)), media_type=media_type, headers=headers)
