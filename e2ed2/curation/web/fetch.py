"""One address to its bytes: every redirect is an address of its own, and all of it together keeps one time limit."""

import http.client
import io
import re
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from e2ed2.curation.pipeline import DownloadConfig
from e2ed2.curation.web.addresses import Failed, Refused, resolve

MEGA = 1_000_000
PORTS = {"http": 80, "https": 443}
MOVED, LATER = (301, 302, 303, 307, 308), (408, 425, 429, 500, 502, 503, 504)
UNWISHED = {"noai", "noimageai"}  # of the header X-Robots-Tag
UNSAFE = re.compile(r"[\x00-\x20\x7f]")
SAFE = "!#$%&'()*+,/:;=?@[]~"
CHUNK = 2**16
LEAST_WAIT = 0.001  # seconds; of a socket 0 means not to wait at all


class Fetcher:
    """Asks for addresses, one request a connection. May be used by many threads."""

    def __init__(self, asked: DownloadConfig) -> None:
        self.asked = asked
        self._tls = ssl.create_default_context()

    def fetch(self, url: str, may: Callable[[str], object], most: int, deadline: float) -> bytes:
        """What is behind an address.

        Args:
            may: called with every address before it is asked, redirects too; raises Refused.
            most: bytes. deadline: on the monotonic clock.
        Raises:
            Refused: anything else than so many bytes in time; Failed: where it may go better later.
        """
        for _ in range(self.asked.max_redirects + 1):
            may(url)
            found = self._ask(url, most, deadline)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise Refused(f"more than {self.asked.max_redirects} redirects")

    def _ask(self, url: str, most: int, deadline: float) -> bytes | str:
        """The bytes, or where they have moved to."""
        scheme, host, port, path = split(url)
        address = resolve(host, port, self.asked.allowed_hosts)
        connection = _Connection(host, port, address, self._tls if scheme == "https" else None, self.asked, deadline)
        try:
            headers = {"User-Agent": self.asked.user_agent, "Accept": "image/*, */*;q=0.1"}
            connection.request("GET", path, headers=headers)
            with connection.getresponse() as response:
                return self._read(response, most)
        except TimeoutError:
            raise Failed("takes too long") from None
        except ssl.SSLError as error:
            raise Refused(f"no safe connection: {error.reason or 'broken off'}") from None
        except http.client.IncompleteRead:
            raise Failed("breaks off") from None
        except http.client.HTTPException as error:
            raise Refused(f"no answer in HTTP: {type(error).__name__}") from None
        except OSError as error:
            raise Failed(f"no connection: {error.strerror or type(error).__name__}") from None
        finally:
            connection.close()

    def _read(self, response: http.client.HTTPResponse, most: int) -> bytes | str:
        if response.status in MOVED and (place := response.headers.get("Location")):
            return place
        if response.status != 200:
            raise (Failed if response.status in LATER else Refused)(f"HTTP {response.status}")
        _check_wishes(response)
        if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise Refused("HTML instead of an image")
        if response.length is not None and response.length > most:
            raise Refused(f"more than {most / MEGA:g} MB")
        content = bytearray()
        while chunk := response.read1(CHUNK):
            content += chunk
            if len(content) > most:
                raise Refused(f"more than {most / MEGA:g} MB")
        if response.length:  # what is still to come
            raise http.client.IncompleteRead(b"")
        return bytes(content)


def split(url: str) -> tuple[str, str, int, str]:
    """(Scheme, host, port, path with query) of an address; Refused where it is none of the web's."""
    try:
        parts = urlsplit(url.strip())
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
        host = host.encode("idna").decode() if host and not host.isascii() else host
    except (ValueError, UnicodeError):
        raise Refused("no address of the web") from None
    if scheme not in PORTS or not host or UNSAFE.search(host):
        raise Refused("no address of the web")
    path = quote(parts.path or "/", safe=SAFE) + (f"?{quote(parts.query, safe=SAFE)}" if parts.query else "")
    return scheme, host, port or PORTS[scheme], path


def _check_wishes(response: http.client.HTTPResponse) -> None:
    """Raise Refused where the owner asks that images are not trained on."""
    said = set(re.findall(r"[\w-]+", " ".join(response.headers.get_all("X-Robots-Tag", [])).lower()))
    if found := said & UNWISHED:
        raise Refused(f"its owner says {min(found)}")
    if response.headers.get("TDM-Reservation", "").strip() == "1":
        raise Refused("its owner reserves text and data mining")


class _Connection(http.client.HTTPConnection):
    """To an address that has been checked, whatever the host's name leads to meanwhile."""

    def __init__(
        self, host: str, port: int, address: str, tls: ssl.SSLContext | None, asked: DownloadConfig, deadline: float
    ) -> None:
        super().__init__(host, port)
        self._address, self._tls, self._asked, self._deadline = address, tls, asked, deadline
        self.default_port = PORTS["https" if tls else "http"]

    def connect(self) -> None:
        left = _left(self._deadline, self._asked.read_timeout)
        plain = socket.create_connection((self._address, self.port), left)
        try:
            self.sock = self._tls.wrap_socket(plain, server_hostname=self.host) if self._tls else plain
        except BaseException:
            plain.close()
            raise

    def response_class(self, sock: socket.socket, **options: Any) -> http.client.HTTPResponse:  # type: ignore[override]
        return http.client.HTTPResponse(_Limited(sock, self._asked.read_timeout, self._deadline), **options)  # type: ignore[arg-type]


class _Limited(io.RawIOBase):
    """Reads from a socket: no longer for one piece than a time-out, nor for all of them than to the deadline."""

    def __init__(self, sock: socket.socket, timeout: float, deadline: float) -> None:
        self._sock, self._timeout, self._deadline = sock, timeout, deadline
        self._raw = sock.makefile("rb", buffering=0)  # keeps the socket open when the connection lets go of it

    def makefile(self, mode: str) -> io.BufferedReader:
        """What http.client reads from."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_left(self._deadline, self._timeout))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _left(deadline: float, most: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return max(min(left, most), LEAST_WAIT)
