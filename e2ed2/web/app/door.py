"""Who may come in: whoever has the address that a start printed, and from then on his browser, for a while.

The page is bound to this machine, which others may use too, and which every site that its browser opens can reach: an
address of ours in a page of theirs, a name of theirs that leads here.
"""

import hashlib
import hmac
import os
import secrets
import time
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from e2ed2.system.errors import UserError
from e2ed2.system.paths import config_dir, make_folder
from e2ed2.web.app.pages import page

HOSTS = ("127.0.0.1", "localhost", "::1")  # on any port: a tunnel (`ssh -L`) has another
COOKIE, TOKEN = "e2ed2-watch", "token"
SECONDS = 7 * 24 * 3600  # for which a browser is known
KEY_FILE, KEY_BYTES = "watch.key", 32
OPEN = ("/static/",)  # what the page of a closed door needs
CLOSED = "Open the address that `e2ed2 watch` printed when it was started; it is good until the next start."


class Door:
    """ASGI middleware around the whole app.

    Args:
        token: of this start, in the address that is printed. key: of this user, by which browsers are known again.
        runs: a browser is let in to one folder of runs.
    """

    def __init__(self, app: ASGIApp, token: str, key: bytes, runs: Path) -> None:
        self._app, self._token = app, token
        self._key = hmac.digest(key, str(runs.resolve()).encode(), "sha256")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        answer = self._answer(scope, headers)
        await (self._app if answer is None else answer)(scope, receive, send)

    def _answer(self, scope: Scope, headers: Headers) -> Response | None:
        """What is said at the door; None lets in."""
        if _host(headers) not in HOSTS:
            return PlainTextResponse("asked for another host", 421)
        if scope["path"].startswith(OPEN) or self.knows(_cookie(headers)):
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        token = query.pop(TOKEN, [""])[0]
        if scope["method"] != "GET" or not hmac.compare_digest(token.encode(), self._token.encode()):
            return page("error.html.j2", 403, what=CLOSED)
        rest = urlencode(query, doseq=True)
        path = "/" + scope["path"].lstrip("/")  # two slashes would name another host
        entry = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
        entry.set_cookie(COOKIE, self.pass_until(time.time() + SECONDS), SECONDS, httponly=True, samesite="strict")
        return entry

    def pass_until(self, end: float) -> str:
        """What a browser shows from then on: a time, signed."""
        signature = hmac.new(self._key, str(int(end)).encode(), hashlib.sha256).hexdigest()
        return f"{int(end)}.{signature}"

    def knows(self, shown: str) -> bool:
        """Whether a browser was let in, and not too long ago."""
        end, _, _ = shown.partition(".")
        if not end.isdecimal() or len(end) > 12 or int(end) < time.time():
            return False
        return hmac.compare_digest(shown.encode(), self.pass_until(int(end)).encode())


def _host(headers: Headers) -> str | None:
    """What this machine is called in a request, without the port."""
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname
    except ValueError:  # half of an IPv6 address
        return None


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value


def new_token() -> str:
    """Of one start."""
    return secrets.token_urlsafe(24)


def users_key() -> bytes:
    """What browsers are known by, made on first use and readable by its user alone.

    Raises:
        UserError: it cannot be made or read.
    """
    path = config_dir() / KEY_FILE
    make_folder(path.parent, "configuration", "E2ED2_CONFIG", 0o700)
    try:
        if not path.exists():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
        key = path.read_bytes()
    except FileExistsError:  # another start has just made it
        return users_key()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; mend it, or set E2ED2_CONFIG to another folder") from error
    if len(key) != KEY_BYTES:
        raise UserError(f"{path}: is not a key of {KEY_BYTES} bytes; remove it, and a new one is made")
    return key
