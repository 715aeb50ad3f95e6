"""Ctrl-C, and SIGTERM as a cluster's notice, during training: the update is finished and saved first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from accelerate import Accelerator

Handler = Callable[[int, FrameType | None], object]


@contextmanager
def handled(handlers: dict[signal.Signals, Handler]) -> Iterator[None]:
    """Signals go to other handlers meanwhile; in another thread than the main one nothing changes: none gets there."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)


SIGTERM_IS_CTRL_C: dict[signal.Signals, Handler] = {signal.SIGTERM: signal.default_int_handler}


class Interrupt:
    """The first signal is a request that the loop honours between updates; a second Ctrl-C is immediate.

    A second SIGTERM is not: scheduler and launcher may send one each.
    """

    requested = False

    def hear(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True

    def is_agreed(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked, the same answer in all of them: they end after the same update."""
        if self.requested:
            accelerator.set_trigger()
        return bool(accelerator.check_trigger())


@contextmanager
def delayed_interrupt() -> Iterator[Interrupt]:
    """While this lasts, Ctrl-C and SIGTERM are requests."""
    interrupt = Interrupt()
    with handled({signal.SIGINT: interrupt.hear, signal.SIGTERM: interrupt.hear}):
        yield interrupt
