"""Ctrl-C, and the notices of a cluster (SIGTERM) or a closed terminal (SIGHUP): who hears them, and what ends then."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

NOTICES = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]

Handler = Callable[[int, FrameType | None], object]


@contextmanager
def handled(handlers: dict[signal.Signals, Handler]) -> Iterator[None]:
    """Signals go to other handlers meanwhile, but for ignored ones (`nohup`).

    In another thread than the main one nothing changes: none gets there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = {number: handler for number, handler in handlers.items() if signal.getsignal(number) != signal.SIG_IGN}
    previous = {number: signal.signal(number, handler) for number, handler in heard.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)


def interruptible(saved: str) -> AbstractContextManager[None]:
    """Ctrl-C and notices raise KeyboardInterrupt; while a module loads they end the process at once, with status 130.

    An exception in the middle of an import is one that libraries may swallow, or break on.

    Args:
        saved: what there is to say then.
    """

    def hear(number: int, frame: FrameType | None) -> None:
        if _is_importing(frame):
            show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # which bars hide
            sys.stderr.write(f"{show_cursor}\ninterrupted: {saved}\n" if saved else "")
            sys.stderr.flush()
            os._exit(130)
        raise KeyboardInterrupt

    return handled(dict.fromkeys((signal.SIGINT, *NOTICES), hear))


def _as_ctrl_c(number: int, frame: FrameType | None) -> None:
    hear = signal.getsignal(signal.SIGINT)
    if callable(hear):
        hear(signal.SIGINT, frame)


NOTICES_ARE_CTRL_C: dict[signal.Signals, Handler] = dict.fromkeys(NOTICES, _as_ctrl_c)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
