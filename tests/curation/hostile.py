"""A web server that misbehaves in every way that addresses in the wild do."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from PIL import Image

from tests.curation.conftest import encoded, picture

ROBOTS = b"User-agent: *\nDisallow: /secret/\n\nUser-agent: e2ed2-curate\nDisallow: /ours/*.jpg$\nDisallow: /secret/\n"
HEADERS = {  # path -> headers beside an image
    "/noai.jpg": {"X-Robots-Tag": "noindex, noai"},
    "/noimageai.jpg": {"X-Robots-Tag": "otherbot: noimageai"},
    "/reserved.jpg": {"TDM-Reservation": "1"},
}
BODIES = {
    "/page.jpg": (b"<!doctype html><p>gone", "text/html; charset=utf-8"),
    "/lying.jpg": (b"<!doctype html><p>gone", "image/jpeg"),
    "/cut.jpg": (encoded(picture(70))[:-500], "image/jpeg"),
    "/moving.gif": (encoded(picture(71), "GIF", save_all=True, append_images=[picture(72)]), "image/gif"),
    "/bomb.png": (encoded(Image.new("1", (12000, 12000)), "PNG"), "image/png"),
    "/empty.jpg": (b"", "image/jpeg"),
}


class Handler(BaseHTTPRequestHandler):
    """`asked` of the server counts paths."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # noqa: N802
        path = self.path.partition("?")[0]
        self.server.asked[path] += 1
        self.close_connection = True
        if path == "/robots.txt":
            self.reply(ROBOTS, "text/plain", status=self.server.robots)
        elif path.startswith("/status/"):
            self.reply(b"", "text/plain", status=int(path.removeprefix("/status/")))
        elif path == "/busy.jpg" and self.server.asked[path] == 1:
            self.reply(b"", "text/plain", status=503)
        elif path.startswith("/to/"):
            self.reply(b"", "text/plain", status=302, Location=self.path.removeprefix("/to/"))
        elif path.startswith("/round/"):
            self.reply(b"", "text/plain", status=301, Location=f"/round/{int(path.removeprefix('/round/')) + 1}")
        elif path.startswith("/slow/"):
            self.drip(b"HTTP/1.1 200 OK\r\n" + (b"X: " if path.endswith("head") else b"\r\n"), b"y")
        elif path == "/silent.jpg":
            time.sleep(self.server.patience)
        elif path == "/endless.jpg":
            self.drip(b"HTTP/1.1 200 OK\r\n\r\n", bytes(2**16), pause=0)
        elif path == "/announced.jpg":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
        elif path == "/broken.jpg":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + bytes(100))
        elif path == "/garbage.jpg":
            self.wfile.write(b"\x00\x01\x02\r\n\r\n")
        elif path in BODIES:
            self.reply(*BODIES[path])
        else:
            self.reply(encoded(picture(sum(path.encode()))), "image/jpeg", **HEADERS.get(path, {}))

    def reply(self, body: bytes, kind: str, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def drip(self, start: bytes, piece: bytes, pause: float = 0.05) -> None:
        end = time.monotonic() + self.server.patience
        self.wfile.write(start)
        while time.monotonic() < end:
            self.wfile.write(piece)
            time.sleep(pause)

    def log_message(self, *args: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(OSError):  # the other side has had enough
            super().handle()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, robots: int = 200, patience: float = 8.0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.robots, self.patience = Counter(), robots, patience

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def handle_error(self, *args: object) -> None:
        pass


@contextmanager
def serving(**options: int) -> Iterator[Server]:
    with Server(**options) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()
