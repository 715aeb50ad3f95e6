"""The processes of one command, as `accelerate launch` or `torchrun` starts them, begin and end together.

They meet in torch's store. What ends one of them ends all: the first says why, on one line, and the others leave with
its status, also those that wait in a collective for one that will never come.
"""

import atexit
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from e2ed2.system.errors import UserError, said
from e2ed2.system.launched import is_first, num_started

JOIN = timedelta(minutes=10)  # until all have come
GRACE = 5.0  # seconds to end in order once another has ended
GRACE_INTERRUPTED = 60.0  # what an interruption saves may be large
LISTENS_EVERY = 0.5  # seconds
ENDS, STATUS, HEARD = "ends", "status", "heard"


@dataclass
class _Others:
    """The store that all processes share.

    Attributes:
        status: with which this one ends. heard: with which another has ended.
    """

    store: dist.PrefixStore
    rank: int
    world: int
    status: int = 0
    heard: int | None = None
    over: threading.Event = field(default_factory=threading.Event)


_others: _Others | None = None


def meet() -> _Others | None:
    """Find the other processes; None where there are none, or where another launcher (MPI) sees to it.

    Raises:
        UserError: they cannot be reached, or do not come within `JOIN`.
    """
    global _others
    if _others is None and num_started() > 1 and "MASTER_ADDR" in os.environ:
        os.environ.setdefault("MASTER_PORT", "29500")
        limit = threading.Timer(JOIN.total_seconds() + GRACE, os._exit, [2])  # what listens there may never answer
        limit.daemon = True
        limit.start()
        try:
            store, rank, world = next(rendezvous("env://", timeout=JOIN))
        except (RuntimeError, ValueError) as error:
            where = "MASTER_ADDR {MASTER_ADDR}, MASTER_PORT {MASTER_PORT}".format_map(os.environ)
            raise UserError(f"{where}: {_refused(error)}") from error
        finally:
            limit.cancel()
        _others = _Others(dist.PrefixStore(_generation(store, world), store), rank, world)
        clone = _others.store.clone()  # type: ignore[attr-defined]  # the stubs lack it
        listener = threading.Thread(target=_listen, args=(_others, clone), daemon=True)
        listener.start()
        atexit.register(_stop, _others, listener)  # a thread that outlives the interpreter may end it by a crash
    return _others


def _generation(store: dist.Store, world: int) -> str:
    """A prefix of keys. The store of `torchrun` outlives its processes, and holds how those before a restart ended."""
    attempt = f"e2ed2/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{world}"
    return f"{attempt}/{(store.add(attempt, 1) - 1) // world}"


def tell(status: int) -> tuple[bool, int]:
    """Tell the others that this process ends.

    Args:
        status: of the process, 0 where it is done and the others are or will be.
    Returns:
        Whether it is the first to end so, and is to say why; and the status to leave with, the first one's.
    """
    others = _others
    if others is None:  # before they have met the first one has the word: without it the others cannot meet
        return is_first(), status
    others.over.set()
    others.status = status
    if status == 0:
        return True, 0
    is_first_end = others.heard is None
    with suppress(dist.DistError):  # the first process is gone, and the store with it: this one speaks for itself
        if is_first_end and (is_first_end := others.store.add(ENDS, 1) == 1):
            others.store.set(STATUS, str(status))
        elif others.heard is None:
            others.heard = int(others.store.get(STATUS))
            others.store.add(HEARD, 1)
    return is_first_end, status if others.heard is None or is_first_end else others.heard


def lost(error: BaseException) -> str | None:
    """One line on another process that is gone without a word; None on all else."""
    if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
        return (
            f"another process was lost ({said(error)}); run the same command again, or let `torchrun --max-restarts` "
            "do so: it goes on from the last checkpoint"
        )
    return None


def leave() -> None:
    """The last of this process: the first one stays, as the store may end with it, until the others have heard."""
    others = _others
    if others is None or others.rank > 0 or others.status == 0:
        return
    until = time.monotonic() + GRACE
    with suppress(dist.DistError):
        while others.store.add(HEARD, 0) < others.world - 1 and time.monotonic() < until:
            time.sleep(0.01)


def _listen(others: _Others, store: dist.Store) -> None:
    """Wait for the end of another process; leave where this one does not end by itself."""
    try:
        while not store.check([STATUS]):
            if others.over.wait(LISTENS_EVERY):
                return
        others.heard = int(store.get(STATUS))
        store.add(HEARD, 1)
    except dist.DistError:  # the first process is gone, and the store with it
        if others.over.wait(GRACE):
            return
        others.heard = 1
    if not others.over.wait(GRACE_INTERRUPTED if others.heard == 130 else GRACE):
        os._exit(others.heard)


def _stop(others: _Others, listener: threading.Thread) -> None:
    others.over.set()
    listener.join()


def _refused(error: Exception) -> str:
    text = said(error)
    if "EADDRINUSE" in text or "in use" in text:
        return "another program listens at this port; give another (`accelerate launch --main_process_port`)"
    if "clients joined" in text:
        return f"not all {num_started()} processes came within {JOIN.total_seconds():.0f} s ({text}); see their output"
    return f"the first process cannot be reached ({text}); start all with the same address and port"
