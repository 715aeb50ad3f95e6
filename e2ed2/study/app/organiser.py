"""The organiser's page: how far raters are, raised hands and replies, links, pause, export."""

import math
import time
from typing import Annotated
from urllib.parse import parse_qs

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

HOME, COOKIE = "/organiser", "organiser"
LONGEST_REPLY = 2000  # letters
EXPORTS = {"csv": (to_csv, "text/csv; charset=utf-8"), "parquet": (to_parquet, "application/vnd.apache.parquet")}


async def _fields(request: Request) -> dict[str, str]:
    """The fields of a form, each once."""
    try:
        found = parse_qs((await request.body()).decode(), keep_blank_values=True, max_num_fields=10)
    except ValueError:
        return {}
    return {name: values[0] for name, values in found.items()}


Fields = Annotated[dict[str, str], Depends(_fields)]


def organiser_routes(study: Study, store: Store) -> APIRouter:
    """The routes below `/organiser`, and `/`, which leads there."""
    door, agreement = Door(study.secret), Agreement(study, store)
    routes = APIRouter()

    def is_inside(request: Request) -> bool:
        token = request.cookies.get(COOKIE, "")
        return bool(token) and store.is_session(token)

    def must_be_inside(request: Request) -> None:
        if not is_inside(request):
            raise HTTPException(403, "sign in")

    inside = APIRouter(prefix=HOME, dependencies=[Depends(must_be_inside)])

    def known(name: str) -> str:
        if name not in study.raters:
            raise HTTPException(404)
        return name

    Name = Annotated[str, Depends(known)]

    @routes.get("/")
    def root() -> Response:
        return RedirectResponse(HOME, 303)

    @routes.get(HOME)
    def home(request: Request) -> Response:
        if not is_inside(request):
            return page(request, "sign_in.html.j2", problem="")
        return page(request, "organiser.html.j2", **live_values(study, store, agreement))

    @routes.post(f"{HOME}/sign-in")
    def sign_in(request: Request, fields: Fields) -> Response:
        words = languages()[language_of(request)]["organiser"]
        is_right = door.try_password(fields.get("password", ""))
        if is_right is None:
            wait = math.ceil(max(1.0, door.wait()))
            response = page(request, "sign_in.html.j2", 429, problem=words["wait"].format(seconds=wait))
            response.headers["retry-after"] = str(wait)
            return response
        if not is_right:
            return page(request, "sign_in.html.j2", 403, problem=words["wrong"])
        token = new_token()
        store.begin_session(token, SESSION_SECONDS)
        entry = RedirectResponse(HOME, 303)
        entry.set_cookie(
            COOKIE, token, max_age=int(SESSION_SECONDS), httponly=True, samesite="strict",
            secure=request.url.scheme == "https", path=HOME,
        )  # fmt: skip
        return entry

    @inside.post("/sign-out")
    def sign_out(request: Request) -> Response:
        store.end_session(request.cookies[COOKIE])
        response = RedirectResponse(HOME, 303)
        response.delete_cookie(COOKIE, path=HOME)
        return response

    @inside.get("/live")
    def live(request: Request) -> Response:
        return page(request, "live.html.j2", **live_values(study, store, agreement))

    @inside.post("/pause")
    def pause(fields: Fields) -> Response:
        store.pause(fields.get("paused") == "1")
        return RedirectResponse(HOME, 303)

    @inside.post("/raters/{name}/revoke")
    def revoke(name: Name) -> Response:
        store.revoke(name)
        return RedirectResponse(HOME, 303)

    @inside.post("/raters/{name}/link")
    def renew(name: Name) -> Response:
        store.issue_link(name)
        return RedirectResponse(HOME, 303)

    @inside.post("/hands/{number:int}/reply")
    def reply(number: int, fields: Fields) -> Response:
        text = fields.get("text", "").strip()
        if not text or len(text) > LONGEST_REPLY or "\0" in text:  # PostgreSQL holds no NUL
            raise HTTPException(422, "a reply has 1 to 2,000 letters, and no NUL")
        store.reply(number, text)
        return RedirectResponse(HOME, 303)

    @inside.get("/votes.{kind}")
    def export(kind: str) -> Response:
        if kind not in EXPORTS:
            raise HTTPException(404)
        write, media_type = EXPORTS[kind]
        name = f"votes-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.{kind}"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Response(write(votes_of(study, store)), media_type=media_type, headers=headers)

    routes.include_router(inside)
    return routes
