"""A server of pages in a process of its own, as a user starts it, and an end that it does not expect."""

import os
import signal
import subprocess
import sys
import threading


class Server:
    """`e2ed2 ARGUMENTS`, once it has said where it is.

    Attributes:
        said: its first line.
    """

    def __init__(self, *arguments: str) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, "-m", "e2ed2.cli", *arguments]
        self.process = subprocess.Popen(command, text=True, env=environment, **pipes)
        self.said = self.process.stdout.readline()
        if not self.said:
            raise AssertionError(self.process.stderr.read())
        for pipe in (self.process.stdout, self.process.stderr):
            threading.Thread(target=pipe.read, daemon=True).start()

    def kill(self) -> None:
        """As a machine that loses power does, or the kernel when memory is full."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Ctrl-C; returns the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=30)
