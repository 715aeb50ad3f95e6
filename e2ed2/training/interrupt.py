"""Ctrl-C and notices (SIGTERM, SIGHUP) during training: the update is finished and saved first."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from accelerate import Accelerator

from e2ed2.system.signals import NOTICES, handled

TOGETHER = 1.0  # seconds within which signals are one


class Interrupt:
    """The first signal is a request that the loop honours between updates; a second Ctrl-C is immediate.

    Not one within a second: a launcher passes on what the terminal sends too. A second notice never is.
    """

    requested = False
    _first = 0.0

    def hear(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT and time.monotonic() - self._first > TOGETHER:
            raise KeyboardInterrupt
        if not self.requested:
            self.requested, self._first = True, time.monotonic()

    def is_agreed(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked, the same answer in all of them: they end after the same update."""
        if self.requested:
            accelerator.set_trigger()
        return bool(accelerator.check_trigger())


@contextmanager
def delayed_interrupt() -> Iterator[Interrupt]:
    """While this lasts, Ctrl-C and SIGTERM are requests."""
    interrupt = Interrupt()
    with handled(dict.fromkeys((signal.SIGINT, *NOTICES), interrupt.hear)):
        yield interrupt
