"""The figures of the organiser's page."""

import threading
import time
from dataclasses import dataclass
from typing import Any

from e2ed2.study.analysis.agreement import alpha
from e2ed2.study.export import votes_of
from e2ed2.study.folder import Rater, Study
from e2ed2.study.store import Hand, Progress, Store
from e2ed2.study.votes import CRITERIA

ACTIVE, LOST = 5 * 60, 24 * 3600  # seconds since the last decision: until then one is active, from then on perhaps gone
FRESH, SHARE = 10.0, 20.0  # seconds for which the agreement is not computed again, at least; times what it took


@dataclass(frozen=True)
class RaterRow:
    """A rater as a row of the table."""

    rater: Rater
    progress: Progress
    link: str
    state: str
    criterion: str
    ago: tuple[str, int] | None


@dataclass(frozen=True)
class HandRow:
    """A raised hand, and the pair that was on the screen."""

    hand: Hand
    prompt: str
    ago: tuple[str, int]


class Agreement:
    """How well raters agree so far; computed anew at most every `FRESH` seconds, and in a twentieth of the time."""

    def __init__(self, study: Study, store: Store) -> None:
        self._study, self._store = study, store
        self._found: dict[str, float | None] = {}
        self._num_decisions, self._next = 0, 0.0
        self._busy = threading.Lock()

    def __call__(self) -> dict[str, float | None]:
        """Krippendorff's alpha by criterion; None where there are too few votes."""
        started = time.monotonic()
        if started >= self._next and self._busy.acquire(blocking=False):
            try:
                if (now := self._store.num_decisions()) != self._num_decisions:
                    main = [vote for vote in votes_of(self._study, self._store) if vote.kind == "main"]
                    self._found = {c: alpha(own) for c in CRITERIA if (own := [v for v in main if v.criterion == c])}
                    self._num_decisions = now
                self._next = time.monotonic() + max(FRESH, SHARE * (time.monotonic() - started))
            finally:
                self._busy.release()
        return self._found


def live_values(study: Study, store: Store, agreement: Agreement) -> dict[str, Any]:
    """All that the organiser's page shows, of now."""
    now, progress = time.time(), store.progress()
    rows = [_row(study, each, now) for each in progress]
    hands = [_hand(study, hand, now) for hand in store.hands()]
    total = sum(len(row.rater.screens) for row in rows)
    decided = sum(each.num_decided for each in progress)
    seconds = [(each.seconds, each.num_decided) for each in progress if each.seconds is not None]
    return {
        "rows": rows, "decided": decided, "total": total, "is_paused": store.is_paused(),
        "hands": sorted(hands, key=lambda row: (row.hand.reply is not None, row.hand.raised_at)),
        "num_waiting": sum(row.hand.reply is None for row in hands),
        "num_finished": sum(each.finished_at is not None for each in progress),
        "seconds": sum(s * n for s, n in seconds) / decided if decided else None,
        "agreement": agreement(),
        "criteria": CRITERIA,
    }  # fmt: skip


def _row(study: Study, progress: Progress, now: float) -> RaterRow:
    rater = study.raters[progress.rater]
    reached = min(progress.num_decided, len(rater.screens) - 1)
    ago = None if progress.last_at is None else _ago(now - progress.last_at)
    link = study.link(rater.name, progress.issue)
    return RaterRow(rater, progress, link, _state(progress, now), rater.screens[reached].criterion, ago)


def _state(progress: Progress, now: float) -> str:
    if progress.is_revoked:
        return "revoked"
    if progress.finished_at is not None:
        return "finished"
    if progress.last_at is None:
        return "new"
    away = now - progress.last_at
    return "active" if away < ACTIVE else "idle" if away < LOST else "lost"


def _hand(study: Study, hand: Hand, now: float) -> HandRow:
    screens = study.raters[hand.rater].screens
    prompt = screens[hand.screen].prompt if hand.screen < len(screens) else ""
    return HandRow(hand, prompt, _ago(now - hand.raised_at))


def _ago(seconds: float) -> tuple[str, int]:
    """A unit of `words.organiser.ago`, and how many."""
    for unit, length, most in (("days", 86400, 10**9), ("hours", 3600, 48), ("minutes", 60, 60)):
        if seconds >= length * (2 if unit == "days" else 1) and seconds < length * most:
            return unit, int(seconds // length)
    return "now", 0
