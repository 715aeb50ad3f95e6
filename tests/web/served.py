"""`e2ed2 watch` in a process of its own, as a user starts it."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path


class Watched:
    """A server on a folder of runs: its address with the token, and an end that it does not expect."""

    def __init__(self, runs: Path, port: int = 0) -> None:
        command = [sys.executable, "-m", "e2ed2.cli", "watch", str(runs), "--port", str(port)]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, env=environment, **pipes)
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.stderr.read())
        self.entry = line.split()[-1]
        self.address = self.entry.partition("/?")[0]
        self.port = int(self.address.rpartition(":")[2])
        for pipe in (self.process.stdout, self.process.stderr):
            threading.Thread(target=pipe.read, daemon=True).start()

    def kill(self) -> None:
        """As a machine that loses power does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Ctrl-C; returns the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=30)
