"""Processes that are forked from one that has imported everything: a training then begins in a fraction of a second."""

import gc
import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch._dynamo  # noqa: F401 - else every child imports it at its first optimizer step
from ranks import SHARDED, free_port, variables

HOW = {"DDP": {}, "shards": SHARDED, "shards a block": SHARDED | {"FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}}


def settle() -> None:
    """What is loaded stays; every child would go through all of it, several times."""
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()


def run(
    world: int,
    work: Callable[[int], object],
    said: Path,
    env: Mapping[str, str] = {},
    kill: tuple[int, float] | None = None,
    meanwhile: Callable[[list[int]], None] = lambda pids: None,
    port: int | None = None,
    limit: float = 400,
) -> list[int]:
    """Do `work(rank)` in `world` processes; their exit statuses, minus a signal's number where one ended them.

    Args:
        said: the file that their output goes to; with `RANK` in its name each to its own.
        kill: (rank, seconds) when to kill it, unless it is done before.
        meanwhile: called with their process ids.
        limit: seconds after which all are killed.
    """
    each = variables(world, port or free_port())
    pids = [_begin(work, rank, said, {**env, **own}) for rank, own in enumerate(each)]
    meanwhile(pids)
    statuses: dict[int, int] = {}
    began = time.monotonic()
    while len(statuses) < world:
        for rank, pid in enumerate(pids):
            if rank not in statuses and (found := os.waitpid(pid, os.WNOHANG))[0]:
                statuses[rank] = os.waitstatus_to_exitcode(found[1])
        seconds = time.monotonic() - began
        if kill is not None and seconds > kill[1]:
            if kill[0] not in statuses:
                os.kill(pids[kill[0]], signal.SIGKILL)
            kill = None
        if seconds > limit:
            for rank, pid in enumerate(pids):
                if rank not in statuses:
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    return [statuses[rank] for rank in range(world)]


def _begin(work: Callable[[int], object], rank: int, said: Path, env: Mapping[str, str]) -> int:
    pid = os.fork()
    if pid > 0:
        return pid
    status = 1
    try:
        own = {"HF_DEACTIVATE_ASYNC_LOAD": "1"}  # torch now and then fails in a thread that a fork begins
        os.environ.update(ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo", **own, **env)
        output = os.open(str(said).replace("RANK", str(rank)), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        work(rank)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    os._exit(status)
