"""Trainings as processes of their own: started, stopped, taken up again. They outlive the page and its server."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from e2ed2.reports.run_page import read_recipe
from e2ed2.reports.run_state import CONSOLE_FILE, Told, told
from e2ed2.system.errors import UserError
from e2ed2.training.journal.state import RunState, write_state
from e2ed2.web.runs import Runs

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of a run that is started here: a folder in the folder of runs
VERBS = ("train", "finetune")


class Processes:
    """Those that this server started are its children, and reaped; what others started is known by `state.json`."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, arguments: list[str]) -> None:
        """A new run: `e2ed2 finetune`.

        Args:
            name: of its folder. arguments: as typed behind `finetune`, but for `--out`.
        Raises:
            UserError: a name that is no folder's, or that is taken.
        """
        folder = self._runs.folder / checked_name(name)
        try:
            folder.mkdir(parents=True)
        except FileExistsError as error:
            raise UserError(f"name '{name}': there is such a run already; give another") from error
        except OSError as error:
            raise UserError(f"{folder}: {error.strerror}; mend the folder, or give another name") from error
        self._spawn(folder, ["finetune", "--out", str(folder), *arguments])

    def go_on(self, name: str, folder: Path) -> None:
        """Take a run up where it stopped, by the command that made it.

        Raises:
            UserError: it is at work, finished, or its recipe cannot be read.
        """
        found = told(folder)
        if not self.can_go_on(folder, found):
            raise UserError(f"run '{name}': is {found.doing}, and there is nothing to go on with")
        recipe = read_recipe(folder)[1]
        verb = next((word for word in found.command[1:2] if word in VERBS), "train")
        self._spawn(folder, resumed(verb, folder, recipe))

    def stop(self, name: str, state: Told) -> None:
        """Ask a run to save what it has, and to end; it does so after its update.

        Raises:
            UserError: nobody is at work on it here.
        """
        if not self.can_stop(state):
            raise UserError(f"run '{name}': is {state.doing}, and no process of this machine is at work on it")
        assert state.pid is not None
        try:
            os.kill(state.pid, signal.SIGTERM)
        except (ProcessLookupError, PermissionError) as error:
            raise UserError(f"run '{name}': its process cannot be reached ({error.strerror})") from error

    def can_stop(self, state: Told) -> bool:
        """Whether a process of this machine, and of ours, is at work on a run."""
        return state.is_live and state.host == socket.gethostname() and _is_ours(state.pid)

    def can_go_on(self, folder: Path, state: Told) -> bool:
        """Whether there is something to take up."""
        return not state.is_live and state.doing != "finished" and bool(read_recipe(folder)[1])

    def reap(self) -> None:
        """Take leave of children that have ended: until then they seem to be there."""
        self._children = [child for child in self._children if child.poll() is None]

    def _spawn(self, folder: Path, arguments: list[str]) -> None:
        command = [sys.executable, "-m", "e2ed2.cli", *arguments]
        with (folder / CONSOLE_FILE).open("ab") as output:
            output.write(f"$ {shlex.join(['e2ed2', *arguments])}\n".encode())
            output.flush()
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        self._children.append(child)
        now = time.time()
        before = told(folder)
        state = RunState(
            doing="starting", command=["e2ed2", *arguments], pid=child.pid, host=socket.gethostname(), began=now,
            now=now, step=before.step, max_steps=before.max_steps, best=before.best, stage=before.stage,
            model=before.model, data=before.data,
        )  # fmt: skip
        write_state(folder, state)
        self._runs.forget()


def checked_name(name: str) -> str:
    """The name itself; UserError where it is no folder's, or would lead elsewhere."""
    if not NAME.fullmatch(name):
        raise UserError(f"name {name[:80]!r}: give 1 to 64 letters, digits, dots, dashes or underscores, as in my-cat")
    return name


def resumed(verb: str, folder: Path, recipe: dict[str, Any]) -> list[str]:
    """What takes a run up: its own recipe, never a command that a file tells."""
    if verb == "finetune":
        model, data = (recipe.get(section, {}).get("path") for section in ("model", "data"))
        if isinstance(model, str) and isinstance(data, str):
            return ["finetune", "--out", str(folder), "--", model, data]
    return ["train", "--", str(folder / "config.yaml"), f"run.dir={folder}"]


def _is_ours(pid: int | None) -> bool:
    """Whether a process is one of this command: a number that a file tells may be anybody's by now."""
    if pid is None or pid <= 1:
        return False
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return not Path("/proc/self").exists()  # a system that does not tell
    return b"e2ed2" in words
