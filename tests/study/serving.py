"""A server in a process of its own, as a user starts it, and what needs one."""

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Served:
    """`e2ed2 study serve`: its address, its links, and an end that it does not expect."""

    def __init__(self, folder: Path, port: int = 0, database_url: str | None = None) -> None:
        command = [sys.executable, "-m", "e2ed2.cli", "study", "serve", str(folder), "--port", str(port)]
        command += ["--database-url", database_url] if database_url else []
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, env=environment, **pipes)
        first = self.process.stdout.readline()
        if not first:
            raise AssertionError(self.process.stderr.read())
        self.address = first.split()[1].removesuffix("/organiser")
        self.port = int(self.address.rpartition(":")[2])
        for pipe in (self.process.stdout, self.process.stderr):
            threading.Thread(target=pipe.read, daemon=True).start()
        self.links = [row["link"] for row in csv.DictReader((folder / "links.csv").read_text().splitlines())]

    def kill(self) -> None:
        """As a machine that loses power does, or the kernel when memory is full."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Ctrl-C; returns the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=30)


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
