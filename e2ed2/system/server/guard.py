"""What every request passes: nothing too large, nothing from another site, nothing that a browser may keep."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 32 * 1024  # bytes; a vote has 150, a question at the most 8,000
READS = ("GET", "HEAD")
ALWAYS = {
    "content-security-policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # links are secrets
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-robots-tag": "noindex, nofollow",
}


class Guard:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in (*ALWAYS.items(), ("cache-control", "no-store")):
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        if scope["method"] not in READS:
            if is_foreign(headers):
                return await PlainTextResponse("sent by another site", 403)(scope, receive, send_guarded)
            try:
                content = await _content(headers, receive)
            except ClientDisconnect:
                return  # nobody waits for an answer, and half a body is none
            if content is None:
                return await PlainTextResponse("too large", 413, {"connection": "close"})(scope, receive, send_guarded)
            receive = _once(content)
        await self._app(scope, receive, send_guarded)


def is_foreign(headers: Headers) -> bool:
    """Whether a browser says that a page of another origin sent this. A program that is no browser says nothing."""
    origin = headers.get("origin")
    try:
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return True
    except ValueError:  # half of an IPv6 address
        return True
    return headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")


async def _content(headers: Headers, receive: Receive) -> bytes | None:
    """The body; None where it is too large, whatever its length is said to be.

    Raises:
        ClientDisconnect: the sender went away before its end.
    """
    said = headers.get("content-length", "0")
    if not said.isdecimal() or int(said) > LARGEST_BODY:
        return None
    content, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        content += message.get("body", b"")
        more = message.get("more_body", False)
        if len(content) > LARGEST_BODY:
            return None
    return content


def _once(content: bytes) -> Receive:
    """The body as the app receives it: whole, then an end."""
    messages: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> Message:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    return receive
