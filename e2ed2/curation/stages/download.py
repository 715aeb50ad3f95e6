"""Images from their addresses, many at a time, few of one host."""

import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import BoundedSemaphore, Lock
from typing import IO

from e2ed2.curation.items import Item
from e2ed2.curation.pipeline import DownloadConfig
from e2ed2.curation.web.addresses import Failed, Refused
from e2ed2.curation.web.fetch import MEGA, Fetcher, split
from e2ed2.curation.web.robots import Robots
from e2ed2.curation.work import Work
from e2ed2.system.errors import said
from e2ed2.system.files import atomic_file

NAME = "download"
FIRST_WAIT = 0.5  # seconds before a second try; twice as long before each further one


class Downloads:
    """What one worker keeps between batches: hosts' rules, and how many connections each has."""

    def __init__(self, asked: DownloadConfig, work: Work) -> None:
        self._asked, self._work = asked, work
        self._fetcher = Fetcher(asked)
        self._robots = Robots(self._fetcher)
        self._pool = ThreadPoolExecutor(asked.connections)
        self._hosts: dict[str, BoundedSemaphore] = {}
        self._lock = Lock()

    def download(self, items: Sequence[Item]) -> None:
        """Put the image of each item that has only an address into a file; drop those that are not to be had."""
        remote = spread_hosts([item for item in items if item.file is None])
        if not remote:
            return
        path = self._work.step("images") / f"{remote[0].number:016x}-{uuid.uuid4().hex[:8]}"
        lock = Lock()
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            list(self._pool.map(lambda item: self._one(item, file, lock), remote))
        for item in remote:
            item.file = str(path) if item.kept else None

    def _one(self, item: Item, file: IO[bytes], lock: Lock) -> None:
        try:
            content = self._tries(item.source)
        except Refused as error:
            return item.drop(NAME, str(error))
        except Exception as error:  # whatever strangers' servers make a library raise
            return item.drop(NAME, f"failed: {said(error)}")
        with lock:  # at once to disk: memory holds what is on its way alone
            item.offset, item.size = file.tell(), len(content)
            file.write(content)

    def _tries(self, url: str) -> bytes:
        """The image; Refused when all tries have failed, or one more would be of no use."""
        deadline = time.monotonic() + self._asked.total_timeout
        most = int(self._asked.max_megabytes * MEGA)
        for number in range(self._asked.retries + 1):
            try:
                with self._host(url):
                    return self._fetcher.fetch(url, self._robots.check, most, deadline)
            except Failed:
                wait = FIRST_WAIT * 2**number * random.uniform(1, 1.5)
                if number == self._asked.retries or time.monotonic() + wait > deadline:
                    raise
                time.sleep(wait)
        raise AssertionError

    def _host(self, url: str) -> BoundedSemaphore:
        host = split(url)[1]
        with self._lock:
            return self._hosts.setdefault(host, BoundedSemaphore(self._asked.per_host))


def spread_hosts(items: Sequence[Item]) -> list[Item]:
    """The first of every host, then the second of each, ...: so that threads do not wait for one host together."""
    seen: Counter[str | None] = Counter()
    turns: list[tuple[int, int, Item]] = []
    for place, item in enumerate(items):
        turns.append((seen[item.domain], place, item))
        seen[item.domain] += 1
    return [item for _, _, item in sorted(turns, key=lambda turn: turn[:2])]


def downloader(asked: DownloadConfig, work: Work) -> Callable[[Sequence[Item]], None]:
    """The stage, for one worker."""
    return Downloads(asked, work).download
