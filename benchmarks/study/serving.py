"""A study that is served, and what needs one."""

import csv
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random

from benchmarks.served import Server
from e2ed2.study.analysis.simulate import Population, choose
from e2ed2.study.folder import Rater, Study


class Served(Server):
    """`e2ed2 study serve`: its address and its links."""

    def __init__(self, folder: Path, port: int = 0, database_url: str | None = None) -> None:
        database = ["--database-url", database_url] if database_url else []
        super().__init__("study", "serve", str(folder), "--port", str(port), *database)
        self.address = self.said.split()[1].removesuffix("/organiser")
        self.port = int(self.address.rpartition(":")[2])
        self.links = [row["link"] for row in csv.DictReader((folder / "links.csv").read_text().splitlines())]


@contextmanager
def postgres(home: Path) -> Iterator[str]:
    """A PostgreSQL server of its own user on a free port, gone at the end; yields its URL.

    Raises:
        FileNotFoundError: no PostgreSQL here.
    """
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    programs = found[-1].parent if found else Path(shutil.which("initdb") or "").parent
    if not (programs / "initdb").is_file():
        raise FileNotFoundError("no PostgreSQL here: apt-get install postgresql")
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to run as root

    def run(name: str, *arguments: object) -> None:
        command = [*user, str(programs / name), *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    with tempfile.TemporaryDirectory(dir=home, ignore_cleanup_errors=True) as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        data = Path(folder) / "data"
        if user:
            shutil.chown(folder, "postgres")
        run("initdb", "-D", data, "-U", "study", "--auth=trust", "-E", "UTF8", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c max_connections=50"
        run("pg_ctl", "-D", data, "-w", "-l", Path(folder) / "log", "-o", options, "start")
        try:
            yield f"postgresql://study@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")


def play(served: Served, study: Study, population: Population, seed: int = 0) -> None:
    """Simulated raters decide on every screen through HTTP, all at the same time, and hand in.

    Whoever looks answers a check right. A decision takes 1 to 8 seconds of theirs, none of ours.
    """
    with ThreadPoolExecutor(len(served.links)) as pool:
        raters = zip(served.links, study.raters.values(), strict=True)
        for done in [pool.submit(_play_one, served.port, link, rater, population, seed) for link, rater in raters]:
            done.result()


def _play_one(port: int, link: str, rater: Rater, population: Population, seed: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    draw = Random(f"{seed} {rater.name}")

    def ask(method: str, path: str, body: dict[str, object]) -> None:
        connection.request(method, link + path, json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status < 400, (path, answer.status)

    for shown in rater.screens:
        choice = shown.expected or choose(
            population, seed, rater=rater.name, pair=shown.pair, prompt=shown.prompt, criterion=shown.criterion,
            left=shown.left, right=shown.right,
        )  # fmt: skip
        body = {"screen": shown.number, "choice": choice, "seconds": draw.uniform(1, 8)}
        ask("PUT", f"/votes/vote-{shown.number:06d}", body)
    ask("POST", "/finish", {})
    connection.close()
