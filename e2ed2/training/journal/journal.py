"""A run's journal: what it is doing, its rows, its pictures, and a page for whoever looks on."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from e2ed2.recipe.config import Config
from e2ed2.system.drawing.sheets import Sheet
from e2ed2.system.errors import UserError, said
from e2ed2.system.launched import typed
from e2ed2.training.journal.state import Best, Doing, RunState, write_state
from e2ed2.training.journal.trackers import log_pictures
from e2ed2.training.log import MetricsFile, write_preview
from e2ed2.training.validation import best_so_far, deciding_metric, read_evaluations

STATE_EVERY = 2.0  # seconds, at least, between two states while training
Show = Callable[[Path], object]  # of a run folder; called when there is more to see in it


def unseen(run_dir: Path) -> None:
    """A `Show` that shows nothing."""


class Journal:
    """Of a run's main process, or of nobody's: every other process has one that writes nothing.

    Attributes:
        metrics: `metrics.jsonl`, once `begin` was called. notes: that `note` kept.
    """

    metrics: MetricsFile

    def __init__(self, config: Config, show: Show, say: Callable[[str], None], *, is_main: bool = True):
        self._config, self._show, self._say, self.is_main = config, show, say, is_main
        self._run_dir, self.notes = config.run.dir, list[str]()
        data = config.data.path or config.data.source
        now, train = time.time(), config.train.max_train_steps
        self._state = RunState(
            doing="preparing", command=typed(), pid=os.getpid(), host=socket.gethostname(), began=now, now=now,
            max_steps=train, stage=config.stage, model=str(config.model.path or "random weights"),
            data=str(data) if not config.data.sources else f"{len(config.data.sources)} sources",
            best=self._best() if is_main else None,
        )  # fmt: skip
        self._first: tuple[int, float] | None = None  # the update that this process began at, and when

    def now(self, doing: Doing, why: str = "", **known: Any) -> None:
        """Say what is being done, and show it."""
        self._write(doing=doing, why=why, seconds_left=None, **known)
        self.show()

    def note(self, line: str) -> None:
        """Say a line; one that begins with `note` is kept for the page."""
        if line.startswith("note"):
            self.notes.append(line)
        self._say(line)

    def begin(self, global_step: int) -> None:
        """Cut what earlier processes wrote back to the update that the run goes on from."""
        if self.is_main:
            self.metrics = MetricsFile(self._run_dir / "metrics.jsonl", global_step)

    def row(self, accelerator: Accelerator, row: dict[str, float], step: int) -> None:
        """A row of metrics, durable when this returns."""
        accelerator.log(row, step)
        if self.is_main:
            self.metrics.write(row)
            self._at(step)

    def preview(self, accelerator: Accelerator, sheet: Sheet, step: int) -> None:
        """A preview, on disk and to trackers, and the page that shows it."""
        path = self._run_dir / "samples" / f"step-{step:06d}.png"
        write_preview(path, sheet)
        log_pictures(accelerator.trackers, path, step)
        self._at(step, is_due=True)
        self.show()

    def evaluated(self, accelerator: Accelerator, step: int) -> None:
        """What was measured after an update."""
        metrics = read_evaluations(self._run_dir).get(step, {"metrics": {}})["metrics"]
        accelerator.log({f"evaluation/{name}": e["value"] for name, e in metrics.items()}, step)
        self._at(step, is_due=True, best=self._best())
        self.show()

    def show(self) -> None:
        """Have the page written; one that cannot be written ends no training."""
        if not self.is_main:
            return
        try:
            self._show(self._run_dir)
        except Exception as error:
            self._say(f"note: the page of the run was not written ({said(error)})")

    def _at(self, step: int, *, is_due: bool = False, **known: Any) -> None:
        """Training has come to an update: how long the rest takes, by all that this process did since it began."""
        now, since = time.time(), self._state.now
        if self._first is None:
            self._first = (step, now)
        first, began = self._first
        rate = (now - began) / (step - first) if step > first else None
        left = None if rate is None else rate * (self._state.max_steps - step)
        self._state = self._state.model_copy(update={"doing": "training", "step": step, "seconds_left": left, **known})
        if is_due or now - since >= STATE_EVERY:
            self._write()

    def _best(self) -> Best | None:
        measured, asked = read_evaluations(self._run_dir), self._config.evaluation
        if not measured or asked.protocol is None:
            return None
        last = [*measured][-1]
        metric = deciding_metric(asked.metric, measured[last]["metrics"])
        step = best_so_far(measured, metric)[last]
        value, low, high = (float(measured[step]["metrics"][metric][name]) for name in ("value", "low", "high"))
        return Best(metric=metric, value=value, low=low, high=high, step=step)

    def _write(self, **changes: Any) -> None:
        self._state = self._state.model_copy(update={**changes, "now": time.time()})
        if self.is_main:
            with suppress(UserError):  # a full disk is told by what must not be lost
                write_state(self._run_dir, self._state)


@contextmanager
def journal(
    config: Config, show: Show, say: Callable[[str], None], doing: Doing, *, is_main: bool = True, **known: Any
) -> Iterator[Journal]:
    """A run's journal, which knows how the work ended when this ends.

    Args:
        known: fields of the state.
    """
    kept = Journal(config, show, say, is_main=is_main)
    kept.now(doing, **known)
    try:
        yield kept
    except KeyboardInterrupt as error:
        kept.now("interrupted", str(error))
        raise
    except Exception as error:
        kept.now("failed", said(error))
        raise
    kept.now("finished")
