"""Ctrl-C during training: the update is finished and saved first."""

import signal
import threading


class DelayedInterrupt:
    """Turns the first Ctrl-C into a request that the loop honours between updates; a second is immediate."""

    def __init__(self) -> None:
        self.requested = False
        self._is_main_thread = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "DelayedInterrupt":
        if self._is_main_thread:  # Python delivers signals there only
            self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_main_thread:
            signal.signal(signal.SIGINT, self._previous)

    def _request(self, number: int, frame: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
