"""What hosts allow, by their robots.txt (RFC 9309)."""

import time
from collections import OrderedDict
from concurrent.futures import Future
from threading import Lock
from urllib.parse import urlsplit

from protego import Protego

from e2ed2.curation.web.addresses import PRIVATE, Failed, Refused
from e2ed2.curation.web.fetch import Fetcher, split
from e2ed2.system.errors import said

MOST_BYTES = 500 * 1024  # of a robots.txt, as the RFC has it
MOST_HOSTS = 50_000  # remembered at a time


class Robots:
    """Remembers hosts. May be used by many threads."""

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._hosts: OrderedDict[str, Future[Protego | str]] = OrderedDict()
        self._lock = Lock()

    def check(self, url: str) -> None:
        """Raise Refused where the host does not allow that this address is asked."""
        path = split(url)[-1]
        parts = urlsplit(url.strip())
        host = f"{parts.scheme.lower()}://{parts.netloc.rpartition('@')[2].lower()}"
        with self._lock:
            is_first = host not in self._hosts
            asked = self._hosts.setdefault(host, Future())
            while len(self._hosts) > MOST_HOSTS:
                self._hosts.popitem(last=False)
        if is_first:  # the others wait for it
            asked.set_result(self._ask(host))
        rules = asked.result()
        if isinstance(rules, str):
            raise Refused(rules)
        if not rules.can_fetch(f"{host}{path}", self._fetcher.asked.user_agent):
            raise Refused("robots.txt does not allow it")

    def _ask(self, host: str) -> Protego | str:
        """A host's rules, or why it is not to be asked."""
        deadline = time.monotonic() + self._fetcher.asked.total_timeout
        try:
            content = self._fetcher.fetch(f"{host}/robots.txt", split, MOST_BYTES, deadline)
            return Protego.parse(content.decode(errors="replace"))
        except Failed as error:  # the host may have rules
            return f"robots.txt: {error}" if str(error).startswith("HTTP") else str(error)
        except Refused as error:
            return str(error) if str(error) == PRIVATE else Protego.parse("")  # it has none
        except Exception as error:
            return f"robots.txt: {said(error)}"
