"""Pages from templates, in the reader's language."""

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from e2ed2.system.readers.yaml_file import read_yaml

FOLDER = Path(__file__).parent
LANGUAGES = FOLDER.parent / "languages"
DEFAULT, COOKIE, A_YEAR = "en", "language", 365 * 24 * 3600  # seconds
KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

Words = Mapping[str, Any]


@cache
def languages() -> dict[str, Words]:
    """Every language by its code, which is the name of its file."""
    return {path.stem: read_yaml(path, "language", LANGUAGES) for path in sorted(LANGUAGES.glob("*.yaml"))}


@cache
def static_files() -> dict[str, bytes]:
    """All that is served as it is, by name: no path of a request ever meets the disk."""
    shared = Path(str(files("e2ed2.reports") / "assets"))
    paths = [*(FOLDER / "static").iterdir(), shared / "tokens.css", shared / "layout.css"]
    return {path.name: path.read_bytes() for path in paths if path.suffix in KINDS}


def static_response(name: str) -> Response | None:
    """A static file; None where there is none of that name."""
    content = static_files().get(name)
    if content is None:
        return None
    headers = {"cache-control": f"public, max-age={A_YEAR}, immutable"}  # its address changes with its content
    return Response(content, media_type=KINDS[Path(name).suffix], headers=headers)


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
    templates.globals["static"] = _address
    return templates


@cache
def _address(name: str) -> str:
    return f"/static/{name}?{hashlib.sha256(static_files()[name]).hexdigest()[:12]}"
