"""Ctrl-C, and SIGTERM as a cluster's notice, during training: the update is finished and saved first."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from accelerate import Accelerator

from e2ed2.system.signals import handled


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
