"""Curates a folder in child processes that die by SIGKILL in each step, and then once more to the end.

    python kill_curations.py OUT FIELD=VALUE ...    (run by test_kills.py)

Children are forked, so that the libraries are imported once.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from e2ed2.curation.pipeline import load_pipeline
from e2ed2.curation.run import curate
from e2ed2.system.watch import silent

KILLED_AT = ("read/*.parquet", "check/*.parquet", "deduplicate*", "select*", "write/*.json")


def child(until: Callable[[], bool]) -> int:
    """Curates in a process that is killed as soon as `until`; returns its end."""
    pid = os.fork()
    if pid == 0:
        curate(load_pipeline(Path("curation/folder"), [f"output.path={sys.argv[1]}", *sys.argv[2:]]), silent)
        os._exit(0)
    while not until():
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def main() -> None:
    work = Path(sys.argv[1]) / "work"
    killed = [child(lambda pattern=pattern: any(work.glob(pattern))) == signal.SIGKILL for pattern in KILLED_AT]
    print(sum(killed), child(lambda: False))


if __name__ == "__main__":
    main()
