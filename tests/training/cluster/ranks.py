"""Processes of one command, found by the variables that a launcher sets."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
SHARDED = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}  # as `accelerate launch --use_fsdp --fsdp_version 2`
PATHS = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "training")))
ALONE = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": PATHS, "TORCH_CPP_LOG_LEVEL": "ERROR"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def variables(world: int, port: int) -> list[dict[str, str]]:
    """The environment of each of `world` processes."""
    if world == 1:
        return [{}]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


def launch(
    world: int,
    command: Sequence[Any],
    env: Mapping[str, str] = {},
    meanwhile: Callable[[list[subprocess.Popen]], None] = lambda processes: None,
    of_rank: Mapping[int, Sequence[Any]] = {},
    port: int | None = None,
    timeout: float = 1500,
) -> list[tuple[str, int]]:
    """Run `python COMMAND` in `world` processes: (stderr, exit status) of each.

    Args:
        of_rank: what is added to the command of a rank.
    """
    each = variables(world, free_port() if port is None else port)
    processes = [
        subprocess.Popen(
            [sys.executable, *map(str, [*command, *of_rank.get(rank, [])])],
            env={**os.environ, **ALONE, **env, **own},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for rank, own in enumerate(each)
    ]
    try:
        meanwhile(processes)
        return [(process.communicate(timeout=timeout)[1].decode(), process.returncode) for process in processes]
    finally:
        for process in processes:
            process.kill()


def all_well(ends: list[tuple[str, int]]) -> None:
    assert all(code == 0 for _, code in ends), "\n".join(error[-3000:] for error, _ in ends)
