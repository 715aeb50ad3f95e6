"""200 raters at once: how long a page, a picture and a vote take, and that no vote is lost or doubled.

    python -m benchmarks.study [--raters 200 --seconds 60 --every 3 --database sqlite|postgresql --kill]

Each rater decides every 3 seconds, then fetches the page of a pair and its two pictures of 256 px, as a browser does.
The load runs in a process beside the server's. With `--kill` the server is killed by SIGKILL in the middle and started
again; a rater sends the same vote until it is heard, and such tries count apart. At the end the decisions in the
database are compared with those that raters know to be taken.
"""

import argparse
import asyncio
import json
import math
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from benchmarks.study.serving import Served, postgres
from e2ed2.sampling.folder import Manifest, ManifestRow, write_manifest
from e2ed2.study.create import create_study
from e2ed2.study.folder import PICTURES, read_study
from e2ed2.study.store import Store, default_url
from e2ed2.system.drawing.pictures import png_bytes, to_picture

PROMPTS, SIDE = 40, 256
Timed = tuple[float, float]  # when a request was sent, and what it took, in seconds
RETRY = 3.0  # seconds, as `rater.js` waits
STARTING = 10.0  # seconds after a kill whose requests are counted apart


class Rater:
    """One browser: a connection that stays open, and the times of all that it asked, in seconds."""

    def __init__(self, port: int, link: str, times: dict[str, list[Timed]]) -> None:
        self._port, self._link, self._times = port, link, times
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.taken, self.tries = 0, 0

    async def rate(self, every: float, until: float) -> None:
        """Decide, look, wait; until the clock says so."""
        await asyncio.sleep(random.uniform(0, every))
        while (begun := time.monotonic()) < until:
            body = json.dumps({"screen": self.taken, "choice": "left", "seconds": 2.5}).encode()
            await self._heard("vote", "PUT", f"/votes/vote-{self.taken:06d}", body)
            self.taken += 1
            await self._heard("page", "GET", f"/{self.taken}/part")
            for side in ("left", "right"):
                await self._heard("picture", "GET", f"/{self.taken}/{side}.png")
            await asyncio.sleep(max(0.0, begun + every - time.monotonic()))

    async def _heard(self, kind: str, method: str, path: str, body: bytes = b"") -> None:
        while True:
            begun = time.monotonic()
            try:
                status = await asyncio.wait_for(self._ask(method, path, body), 30)
            except (OSError, EOFError, TimeoutError):
                self._streams = None
                self.tries += 1
                await asyncio.sleep(RETRY)
                continue
            assert status == 200, (method, path, status)
            self._times[kind].append((begun, time.monotonic() - begun))
            return

    async def _ask(self, method: str, path: str, body: bytes) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        head = f"{method} {self._link}{path} HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\naccept: text/html\r\n"
        writer.write(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
        length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length"))
        await reader.readexactly(length)
        return int(lines[0].split()[1])


@dataclass(frozen=True)
class Played:
    """What came of a load. killed: when, on the clock; infinite where it was not."""

    times: dict[str, list[Timed]]
    raters: list[Rater]
    killed: float


def write_images(folder: Path, seed: int) -> Path:
    """Noise smoothed a little: as large as PNG files of photographs."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for i in range(PROMPTS):
        coarse = torch.rand(1, 3, SIDE // 3, SIDE // 3, generator=torch.Generator().manual_seed(seed + i))
        image = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic")[0].clamp(0, 1)
        rows.append(ManifestRow(file=f"images/{i}.png", prompt=f"a photograph of thing {i}", seed=i))
        (folder / rows[-1].file).write_bytes(png_bytes(to_picture((image * 255).byte())))
    write_manifest(folder, Manifest(made_by="e2ed2 benchmark", model=folder.name, images=rows))
    return folder


async def load(served: Served, asked: argparse.Namespace, restart: Callable[[], None]) -> Played:
    """All raters for the time that is asked; `restart` kills and starts the server."""
    times: dict[str, list[Timed]] = {"vote": [], "page": [], "picture": []}
    raters = [Rater(served.port, link, times) for link in served.links]
    until, killed = time.monotonic() + asked.seconds, math.inf
    at_work = asyncio.gather(*(rater.rate(asked.every, until) for rater in raters))
    if asked.kill:
        await asyncio.sleep(asked.seconds / 2)
        killed = time.monotonic()
        await asyncio.to_thread(restart)
    await at_work
    return Played(times, raters, killed)


def report(played: Played, cpu: float) -> None:
    """A row for each kind of request, and for all; cpu: seconds that the server took."""
    print("\n| request | number | median, ms | 95%, ms | 99%, ms | longest, ms |\n|---|---|---|---|---|---|")
    every = [timed for part in played.times.values() for timed in part]
    starting = [timed for timed in every if 0 <= timed[0] - played.killed < STARTING]
    rows = {**played.times, "all": every}
    apart = {*starting}
    if starting:
        rows |= {"in the 10 s after the kill": starting, "all others": [timed for timed in every if timed not in apart]}
    for kind, timed in rows.items():
        took = [seconds for _, seconds in timed]
        cuts = statistics.quantiles(took, n=100)
        figures = [statistics.median(took), cuts[94], cuts[98], max(took)]
        print(f"| {kind} | {len(took):,} | {' | '.join(f'{1000 * figure:.0f}' for figure in figures)} |")
    print(f"\nthe server's CPU time (of the last, where one was killed): {1000 * cpu / len(every):.2f} ms a request")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--raters", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--every", type=float, default=3)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--kill", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        home.chmod(0o755)  # PostgreSQL's own user looks in
        models = [str(write_images(home / model, seed)) for seed, model in enumerate(("one", "two"))]
        create_study(models, home / "study", groups={"rater": asked.raters})
        size = statistics.mean(path.stat().st_size for path in (home / "study" / PICTURES).iterdir()) / 1024
        print(f"{asked.raters} raters, a decision every {asked.every:g} s for {asked.seconds:g} s, {asked.database}, "
              f"pictures of {size:.0f} KiB; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")  # fmt: skip
        with postgres(home) if asked.database == "postgresql" else nullcontext() as url:
            served = Served(home / "study", database_url=url)

            def restart() -> None:
                nonlocal served
                served.kill()
                served = Served(home / "study", served.port, url)

            try:
                played = asyncio.run(load(served, asked, restart))
                cpu = sum(psutil.Process(served.process.pid).cpu_times()[:2])
            finally:
                served.kill()
            report(played, cpu)
            study = read_study(home / "study")
            store = Store(url or default_url(study.folder), study.id, list(study.raters))
            kept = [(rater, decision.screen) for rater, decision in store.decisions()]
            store.close()
        taken, again = (sum(getattr(rater, name) for rater in played.raters) for name in ("taken", "tries"))
        print(f"votes taken {taken:,}, in the database {len(kept):,}, of different screens {len(set(kept)):,}; "
              f"requests that nobody heard and were sent again {again:,}")  # fmt: skip
        assert len(kept) == len(set(kept)) == taken


if __name__ == "__main__":
    main()
