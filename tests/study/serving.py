"""A server in a process of its own, as a user starts it, and what needs one."""

import csv
import os
import signal
import subprocess
import sys
import threading
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
