"""What a person sees while waiting: progress bars on stderr, and silence from the libraries underneath."""

import sys
import time
from logging import ERROR, getLogger
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from e2ed2.system.drawing.figures import duration, figure
from e2ed2.system.errors import harmless
from e2ed2.system.launched import is_first

LINE_EVERY = 15.0  # seconds between progress lines where no terminal is


class Waiting:
    """Progress of named tasks: bars on a terminal, elsewhere a line now and then. Used as a context manager.

    Calling it moves a task. A total of 0 means that the end is not known: such a task ends when another begins.
    Of several processes of a command the first one's alone is shown.
    """

    def __init__(self) -> None:
        self._is_shown = is_first()
        self._console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not self._is_shown)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[count]}", justify="right"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", style="cyan"),
        )
        self._bars = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._tasks: dict[str, tuple[TaskID, int]] = {}  # what -> (id of its bar, done)
        self._begun: dict[str, tuple[float, int, int]] = {}  # what -> when it was first told of, done then, done last
        self._next_line = time.monotonic() + LINE_EVERY

    def __enter__(self) -> "Waiting":
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_unmeasured()
        self._bars.stop()

    def __call__(self, what: str, done: int, total: int, note: str = "") -> None:
        if not self._console.is_terminal:
            return self._line(what, done, total, note)
        count = f"{done}/{total}" if total else ""
        number, before = self._tasks.get(what, (TaskID(-1), 0))
        if number < 0 or done < before:  # new, or the same work once more
            self._end_unmeasured()
            number = self._bars.add_task(what, total=total or None, count=count, note=note)
        self._tasks[what] = (number, done)
        self._bars.update(number, completed=done, total=total or None, count=count, note=note)

    def say(self, line: str) -> None:
        """One line above the bars."""
        self._console.print(harmless(line), markup=False)

    def tick(self, step: int, steps: int, row: dict[str, float]) -> None:
        """`train`'s callback: the bar with loss and speed."""
        self("training", step, steps, f"loss {row['total']:.4g}, {figure(row['images_per_second'])} images/s")

    def _end_unmeasured(self) -> None:
        for task in self._bars.tasks:
            if task.total is None:
                self._bars.update(task.id, visible=False)

    def _line(self, what: str, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        since, first, last = self._begun.get(what, (now, done, done))
        if done < last:  # the same work once more
            since, first = now, done
        self._begun[what] = since, first, done
        if not total or now < self._next_line or not self._is_shown:
            return
        self._next_line = now + LINE_EVERY
        parts = [f"{what} {done}/{total}", note]
        if first < done < total:  # what an earlier run did says nothing of this one's speed
            parts.append(f"{duration((total - done) * (now - since) / (done - first))} left")
        print(", ".join(part for part in parts if part), file=sys.stderr, flush=True)


def quiet_libraries() -> None:
    """Switch off the loading bars and hints of diffusers, transformers and bitsandbytes; their errors still show.

    Among the hints is one about the text encoder's class, which a pipeline with MiniLM always gets.
    """
    getLogger("bitsandbytes").setLevel(ERROR)  # before diffusers imports it
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
