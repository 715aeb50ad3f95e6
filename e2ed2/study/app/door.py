"""The organiser's door: a password that cannot be tried many times, and sessions that end."""

import secrets
import threading
import time
from collections.abc import Callable

from e2ed2.study.folder import Secret

FREE_TRIES, LONGEST_WAIT = 5, 300.0  # wrong passwords before one has to wait, twice as long each time; seconds
MOST_DOUBLINGS = 10  # far past the longest wait, and far from where a power overflows
SESSION_SECONDS = 12 * 3600.0


class Door:
    """Takes the password, one try at a time.

    Args:
        clock: seconds; for tests.
    """

    def __init__(self, secret: Secret, clock: Callable[[], float] = time.monotonic) -> None:
        self._secret, self._clock = secret, clock
        self._busy = threading.Lock()
        self._wrong, self._closed_until = 0, 0.0

    def wait(self) -> float:
        """Seconds until the next try is heard."""
        return max(0.0, self._closed_until - self._clock())

    def try_password(self, password: str) -> bool | None:
        """Whether it is right; None where it was not even looked at: too many were wrong, or another is looked at."""
        if self.wait() > 0 or not self._busy.acquire(blocking=False):
            return None
        try:
            if self._secret.is_password(password):
                self._wrong = 0
                return True
            self._wrong += 1
            if self._wrong >= FREE_TRIES:
                doublings = min(MOST_DOUBLINGS, self._wrong - FREE_TRIES + 1)
                self._closed_until = self._clock() + min(LONGEST_WAIT, 2.0**doublings)
            return False
        finally:
            self._busy.release()


def new_token() -> str:
    """What a session's cookie holds."""
    return secrets.token_urlsafe(32)
