"""Pages from templates, and parts of them that change: rendered no more often than a hundredth of the time allows."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from e2ed2.reports.page import moment
from e2ed2.system.drawing.figures import central, duration, figure, interval
from e2ed2.system.server.static import StaticFiles

FOLDER = Path(__file__).parents[1]
SHARED = Path(str(files("e2ed2.reports") / "assets"))
LEAST, SHARE = 2.0, 100.0  # seconds between two renderings of a part, at least; times what one took
MOST = 600.0  # seconds: a page is never older
MOST_KEPT = 64  # parts
VERSION, NEXT = "x-version", "x-next"  # headers of a part: which one it is, and seconds until the next may be asked for


@cache
def static_files() -> StaticFiles:
    """Ours, and what all pages share; a report's style sheet without the colours that it holds for itself."""
    names = ("tokens.css", "layout.css", "run.js")
    found = StaticFiles([*(FOLDER / "static").iterdir(), *(SHARED / name for name in names)])
    style = (SHARED / "style.css").read_text().replace('{% include "tokens.css" %}', "")
    found.add("style.css", style.encode())
    return found


@cache
def templates() -> Environment:
    """Ours, and those of reports: a run looks the same on both."""
    found = Environment(
        loader=ChoiceLoader([PackageLoader("e2ed2.web"), PackageLoader("e2ed2.reports", "assets")]),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.globals |= {
        "static": static_files().address, "moment": moment, "duration": duration, "figure": figure,
        "central": central, "interval": interval, "ago": ago,
    }  # fmt: skip
    return found


def ago(seconds: float) -> str:
    """How long a time since 1970 lies back: `3 min ago`."""
    passed = max(time.time() - seconds, 0.0)
    return "just now" if passed < 10 else f"{duration(passed)} ago"


def text_of(template: str, **values: object) -> str:
    """A template, filled in."""
    return templates().get_template(template).render(**values)


def page(template: str, status: int = 200, **values: object) -> HTMLResponse:
    """A template, filled in, as the answer."""
    return HTMLResponse(text_of(template, **({"here": ""} | values)), status)


@dataclass(frozen=True)
class Part:
    """A part of a page as it is: its text, which version that is, and when the next may be asked for (seconds)."""

    text: str
    version: str
    next: float

    def answer(self, request: Request) -> Response:
        """The part, or that the page has it already."""
        headers = {VERSION: self.version, NEXT: f"{self.next:.1f}"}
        if request.headers.get(VERSION) == self.version:
            return Response(status_code=204, headers=headers)
        return HTMLResponse(self.text, headers=headers)


class Parts:
    """Parts of pages by name. However many pages are open, to render costs a hundredth of one core at most."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Part, float]] = {}  # and the time from which on another may be rendered
        self._busy = threading.Lock()

    def get(self, name: str, version: str, render: Callable[[], str], most: float = MOST) -> Part:
        """The part of that version, or the last one where it is too early for another; most: seconds of such a wait."""
        with self._busy:
            part, due = self._kept.get(name, (None, 0.0))
            now = time.monotonic()
            if part is not None and (part.version == version or now < due):
                return Part(part.text, part.version, max(LEAST, min(due - now, most)))
            text = render()
            took = time.monotonic() - now
            pause = min(max(LEAST, SHARE * took), most)
            part = Part(text, version, pause)
            while len(self._kept) >= MOST_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[name] = part, time.monotonic() + pause
            return part
