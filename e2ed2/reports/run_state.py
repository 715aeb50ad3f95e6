"""What a run is doing, in words and figures: as it says itself, or for runs of earlier versions as its files tell."""

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2ed2.system.drawing.figures import duration
from e2ed2.system.errors import harmless
from e2ed2.system.files import is_locked
from e2ed2.training.journal.state import Best, Doing, is_at_work, read_state
from e2ed2.training.run_folder import exported_step

CONSOLE_FILE = "console.log"  # what a process prints that was started from a page
LAST_BYTES = 2**14  # of `metrics.jsonl`, which hold its last rows
TONES = {"finished": "good", "failed": "bad", "interrupted": "care"}
NEXT = "the command below goes on"


@dataclass(frozen=True)
class Told:
    """What is told of a run.

    Attributes:
        doing: as `RunState.doing`; of a run that was killed `interrupted`.
        is_live: whether somebody is at work on it.
        why: it ended, in a line. changed: when anything of it last did, seconds since 1970.
    """

    doing: Doing
    is_live: bool
    why: str
    step: int
    max_steps: int
    seconds_left: float | None
    stage: str
    model: str
    data: str
    command: list[str]
    best: Best | None
    pid: int | None
    host: str
    changed: float
    row: dict[str, Any]

    @property
    def tone(self) -> str:
        """Which colour it has."""
        return "" if self.is_live else TONES.get(self.doing, "care")

    @property
    def left(self) -> str:
        """`about 12 min left`, or nothing."""
        return "" if self.seconds_left is None or not self.is_live else f"about {duration(self.seconds_left)} left"


def told(run_dir: Path) -> Told:
    """Two small reads; nothing of a folder that holds nothing."""
    row = last_row(run_dir / "metrics.jsonl")
    step = int(row.get("global_step", 0))
    changed = _changed(run_dir)
    state = read_state(run_dir)
    if state is None:
        is_live = is_locked(run_dir) is True
        exported = None if is_live else exported_step(run_dir / "model")
        doing: Doing = "training" if is_live else "interrupted" if exported is None else "finished"
        why = "" if is_live or exported is not None else f"it has no model; {NEXT}"
        return Told(doing, is_live, why, step, 0, None, "", "", "", [], None, None, "", changed, row)
    is_live, doing, why = is_at_work(run_dir, state), state.doing, state.why
    if state.doing == "starting" and not is_live:
        why = "".join(last_lines(run_dir / CONSOLE_FILE, 1)) or "its process ended before it began"
        doing = "interrupted" if why.startswith("interrupted") else "failed"
    elif not is_live and not state.is_over:
        doing, why = "interrupted", f"its process ended while {state.doing}, without a word; {NEXT}"
    left = state.seconds_left
    if left is not None and state.max_steps > state.step:
        left *= max(state.max_steps - step, 0) / (state.max_steps - state.step)
    return Told(
        doing, is_live, why, max(step, state.step), state.max_steps, left, state.stage, state.model, state.data,
        state.command, state.best, state.pid, state.host, max(changed, state.now), row,
    )  # fmt: skip


def last_row(path: Path) -> dict[str, Any]:
    """The last whole row of a metrics file, without reading the others; empty where there is none."""
    for line in reversed(_end_of(path).split(b"\n")[:-1]):
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("global_step"), int):
                return row
    return {}


def last_lines(path: Path, count: int = 12) -> list[str]:
    """Of a process's output."""
    text = harmless(_end_of(path).decode(errors="replace").replace("\r", "\n"))
    return [line for line in text.splitlines() if line.strip()][-count:]


def _end_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_BYTES))
            return file.read(LAST_BYTES)
    except OSError:
        return b""


def _changed(run_dir: Path) -> float:
    """When its metrics or the folder itself last changed."""
    times = []
    for path in (run_dir, run_dir / "metrics.jsonl"):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times, default=0.0)
