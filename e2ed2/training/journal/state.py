"""`state.json` of a run folder: what a run is doing or how it ended, and whether anybody is at work on it."""

import socket
from pathlib import Path
from typing import Literal

from e2ed2.recipe.fields import CountOrZero
from e2ed2.system.errors import UserError
from e2ed2.system.files import is_alive, is_locked, write_file
from e2ed2.system.readers.json_file import read_typed
from e2ed2.system.readers.typed import Record

STATE_FILE = "state.json"
Doing = Literal["starting", "preparing", "training", "measuring", "finished", "interrupted", "failed"]
ENDS = ("finished", "interrupted", "failed")


class Best(Record):
    """The evaluation of a run that is kept, by the metric that decides."""

    metric: str
    value: float
    low: float
    high: float
    step: CountOrZero


class RunState(Record):
    """What a run says of itself.

    Attributes:
        why: it was interrupted or failed. command: as it was typed. pid, host: of the process that wrote this.
        began: when that process took the run up; now: when it wrote this. Seconds since 1970.
        step, max_steps: updates done, and asked. seconds_left: None where nobody knows.
        stage, model, data: what a list of runs tells of it.
    """

    doing: Doing
    why: str = ""
    command: list[str] = []
    pid: int
    host: str
    began: float
    now: float
    step: CountOrZero = 0
    max_steps: CountOrZero = 0
    seconds_left: float | None = None
    best: Best | None = None
    stage: str = ""
    model: str = ""
    data: str = ""

    @property
    def is_over(self) -> bool:
        """Whether it says that nothing is being done any more."""
        return self.doing in ENDS


def read_state(run_dir: Path) -> RunState | None:
    """None where there is none, that of an earlier version, or a damaged one."""
    try:
        return read_typed(run_dir / STATE_FILE, RunState, "state", "")
    except UserError:
        return None


def write_state(run_dir: Path, state: RunState) -> None:
    """UserError where the disk refuses. Written often, so that it does not wait for the disk."""
    write_file(run_dir / STATE_FILE, (state.model_dump_json(indent=1) + "\n").encode(), durable=False)


def is_at_work(run_dir: Path, state: RunState) -> bool:
    """Whether what a state says is being done is being done: a kill leaves no time to say otherwise.

    A run folder is locked meanwhile (`run_folder.claimed`). Where the disk has no locks, or the folder is not yet
    locked, the process tells; of one on another machine what it said last is taken for true.
    """
    if state.is_over:
        return False
    locked = None if state.doing == "starting" else is_locked(run_dir)
    return (state.host != socket.gethostname() or is_alive(state.pid)) if locked is None else locked
