"""What a rater's private link opens: guidelines, pairs, pictures, raised hands. Nothing of models or others."""

import asyncio
import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from e2ed2.study.app.pages import page
from e2ed2.study.folder import PICTURES, Rater, Shown, Study
from e2ed2.study.store import Choice, Decision, Standing, Store
from e2ed2.study.writer import Conflict

NO_LINK, PAUSED, HANDED_IN, NOT_YET, TAKEN = "no such link", "paused", "handed in", "not yet", "id is taken"
AHEAD = 3  # screens that a page may fetch before their turn
LONGEST = 30 * 24 * 3600  # seconds that a decision may have waited for a connection
MOST_HANDS = 200  # of one rater

Id = Annotated[str, Field(pattern=r"^[0-9A-Za-z-]{8,64}$")]


class Sent(BaseModel):
    """What comes from a browser."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SentVote(Sent):
    """A choice. seconds: that it took; waited: that passed since, without a connection."""

    screen: Annotated[int, Field(strict=True, ge=0, lt=10**6)]
    choice: Choice
    seconds: Annotated[float, Field(ge=0, le=LONGEST)]
    waited: Annotated[float, Field(ge=0)] = 0.0


class SentHand(Sent):
    """A question; the text may be empty."""

    id: Id
    screen: Annotated[int, Field(strict=True, ge=0, lt=10**6)]
    text: Annotated[str, Field(max_length=2000, pattern=r"^[^\x00]*$")]  # PostgreSQL holds no NUL


@dataclass(frozen=True)
class Visit:
    """A request with a valid link. link: the path that all pages of the rater begin with."""

    study: Study
    store: Store
    rater: Rater
    standing: Standing
    link: str


async def _visit(request: Request, link: str) -> Visit:
    study, store = request.app.state.study, request.app.state.store
    signed = study.read_link(link)
    if signed is None:
        raise HTTPException(404, NO_LINK)
    name, issue = signed
    standing = store.standing(name)
    if standing.is_revoked or standing.issue != issue:
        raise HTTPException(404, NO_LINK)
    return Visit(study, store, study.raters[name], standing, f"/r/{link}")


Guest = Annotated[Visit, Depends(_visit)]
# What reads runs in the event loop: that takes a fraction of a millisecond, less than a thread's turn.
routes = APIRouter(prefix="/r/{link}")


@routes.get("")
async def guidelines(request: Request, guest: Guest) -> Response:
    """What the study asks, before the first pair."""
    return page(request, "guidelines.html.j2", **_guidelines(guest))


@routes.get("/{screen:int}")
async def whole_page(request: Request, guest: Guest, screen: int) -> Response:
    """A screen with all around it."""
    total, reached = len(guest.rater.screens), guest.standing.num_decided
    if screen > reached or screen > total:
        return RedirectResponse(f"{guest.link}/{min(reached, total)}", 303)
    values = _screen(guest, screen) | _guidelines(guest)
    return page(request, "rater.html.j2", **values, hands=guest.store.hands(guest.rater.name))


@routes.get("/{screen:int}/part")
async def part(request: Request, guest: Guest, screen: int) -> Response:
    """A screen alone, for the page that is open."""
    _refuse_ahead(guest, screen)
    if screen > len(guest.rater.screens):
        raise HTTPException(404)
    return page(request, "screen.html.j2", **_screen(guest, screen))


@routes.get("/{screen:int}/{side}.png")
async def picture(guest: Guest, screen: int, side: Literal["left", "right"]) -> Response:
    """One of a screen's two pictures."""
    _refuse_ahead(guest, screen)
    if screen >= len(guest.rater.screens):
        raise HTTPException(404)
    file = guest.rater.screens[screen].files[side == "right"]
    content = (guest.study.folder / PICTURES / file).read_bytes()
    return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=86400, immutable"})


@routes.put("/votes/{id}")
async def vote(guest: Guest, id: Id, sent: SentVote) -> dict[str, Any]:
    """Keep a choice: when this answers it is on the disk."""
    total, reached = len(guest.rater.screens), guest.standing.num_decided
    if guest.standing.is_finished:
        raise HTTPException(409, HANDED_IN)
    if guest.standing.is_paused:
        raise HTTPException(503, PAUSED)
    if sent.screen > reached or sent.screen >= total:
        raise HTTPException(409, NOT_YET)
    decided_at = time.time() - min(sent.waited, LONGEST)
    try:
        decision = Decision(id, sent.screen, sent.choice, sent.seconds, decided_at)
        await asyncio.wrap_future(guest.store.decide(guest.rater.name, decision))
    except Conflict:
        raise HTTPException(409, TAKEN) from None
    return {"reached": max(reached, sent.screen + 1)}


@routes.post("/hands")
def raise_hand(guest: Guest, sent: SentHand) -> dict[str, Any]:
    """Keep a question to the organiser."""
    if sent.screen > len(guest.rater.screens) or len(guest.store.hands(guest.rater.name)) >= MOST_HANDS:
        raise HTTPException(409, NOT_YET)
    try:
        guest.store.raise_hand(guest.rater.name, sent.id, sent.screen, sent.text.strip())
    except Conflict:
        raise HTTPException(409, TAKEN) from None
    return {}


@routes.get("/news")
async def news(request: Request, guest: Guest) -> Response:
    """Replies, and whether the study is paused."""
    return page(request, "news.html.j2", hands=guest.store.hands(guest.rater.name), standing=guest.standing)


@routes.post("/news/read")
def read(guest: Guest) -> dict[str, Any]:
    """The replies have been seen."""
    guest.store.read_replies(guest.rater.name)
    return {}


@routes.post("/finish")
def finish(guest: Guest) -> Response:
    """Hand in."""
    if guest.standing.is_paused:
        raise HTTPException(503, PAUSED)
    if guest.standing.num_decided < len(guest.rater.screens):
        raise HTTPException(409, NOT_YET)
    guest.store.finish(guest.rater.name)
    return RedirectResponse(f"{guest.link}/{len(guest.rater.screens)}", 303)


def _refuse_ahead(guest: Visit, screen: int) -> None:
    if screen > guest.standing.num_decided + AHEAD:
        raise HTTPException(404)


def _screen(guest: Visit, screen: int) -> dict[str, Any]:
    """What the page of a screen shows; the one after the last is where to hand in."""
    screens = guest.rater.screens
    shown = screens[screen] if screen < len(screens) else None
    choice = guest.store.choice(guest.rater.name, screen) if screen < guest.standing.num_decided else None
    return {
        "link": guest.link, "number": screen, "total": len(screens), "standing": guest.standing, "shown": shown,
        "choice": choice, "place": _place(screens, shown) if shown else None,
    }  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a screen is. number, count: in its part (practice, or what counts) of its block, and how many that has.

    question, questions: the same of its block. begins: what begins with it: `block`, `main` or nothing.
    """

    number: int
    count: int
    question: int
    questions: int
    begins: str


def _place(screens: list[Shown], shown: Shown) -> Place:
    criteria = list(dict.fromkeys(screen.criterion for screen in screens))
    of_block = [screen for screen in screens if screen.criterion == shown.criterion]
    part = [screen for screen in of_block if screen.is_practice == shown.is_practice]
    begins = "" if shown is not part[0] else "block" if shown is of_block[0] else "main"
    number = 1 + shown.number - part[0].number
    return Place(number, len(part), 1 + criteria.index(shown.criterion), len(criteria), begins)


def _guidelines(guest: Visit) -> dict[str, Any]:
    screens = guest.rater.screens
    of_first = [screen for screen in screens if screen.criterion == screens[0].criterion]
    return {
        "link": guest.link, "standing": guest.standing, "total": len(screens), "pairs": len(of_first),
        "practice": sum(screen.is_practice for screen in of_first),
        "order": list(dict.fromkeys(screen.criterion for screen in screens)),
    }  # fmt: skip
