"""`e2ed2 watch` in a process of its own."""

from pathlib import Path

from benchmarks.served import Server


class Watched(Server):
    """A server on a folder of runs: its address with the token."""

    def __init__(self, runs: Path, port: int = 0) -> None:
        super().__init__("watch", str(runs), "--port", str(port))
        self.entry = self.said.split()[-1]
        self.address = self.entry.partition("/?")[0]
        self.port = int(self.address.rpartition(":")[2])
