"""Pages from templates, in the reader's language."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse

from e2ed2.system.readers.yaml_file import read_yaml
from e2ed2.system.server.static import A_YEAR, StaticFiles

FOLDER = Path(__file__).parent
LANGUAGES = FOLDER.parent / "languages"
DEFAULT, COOKIE = "en", "language"

Words = Mapping[str, Any]


@cache
def languages() -> dict[str, Words]:
    """Every language by its code, which is the name of its file."""
    return {path.stem: read_yaml(path, "language", LANGUAGES) for path in sorted(LANGUAGES.glob("*.yaml"))}


@cache
def static_files() -> StaticFiles:
    """Ours, and what all pages of a local server share."""
    shared = Path(str(files("e2ed2.reports") / "assets"))
    return StaticFiles([*(FOLDER / "static").iterdir(), shared / "tokens.css", shared / "layout.css"])


def language_of(request: Request) -> str:
    """The language that was chosen, else the first of the browser's that we speak, else English."""
    chosen = request.query_params.get(COOKIE) or request.cookies.get(COOKIE, "")
    spoken = re.findall(r"(?:^|,)\s*([a-z]{2,3})", request.headers.get("accept-language", "").lower())
    return next((code for code in [chosen, *spoken] if code in languages()), DEFAULT)


def page(request: Request, template: str, status: int = 200, **values: object) -> HTMLResponse:
    """A template, filled in, as the answer; a language asked for by `?language=` is remembered."""
    code = language_of(request)
    text = _templates().get_template(template).render(
        code=code, words=languages()[code], names={c: words["name"] for c, words in languages().items()},
        here=request.url.path, **values,
    )  # fmt: skip
    response = HTMLResponse(text, status)
    if COOKIE in request.query_params:
        response.set_cookie(COOKIE, code, max_age=A_YEAR, httponly=True, samesite="lax")
    return response


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("e2ed2.study.app"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    templates.globals["static"] = static_files().address
    return templates
