"""What requests are about: one of each for the whole app."""

import threading
from pathlib import Path
from typing import Annotated

from fastapi import Depends
from starlette.exceptions import HTTPException
from starlette.requests import Request

from e2ed2.web.app.pages import Parts
from e2ed2.web.chosen_data import ChosenData
from e2ed2.web.painter import Painter
from e2ed2.web.processes import Processes
from e2ed2.web.runs import Runs


class Desk:
    """The runs, the parts of pages, models that draw, processes that were started, data that were chosen."""

    def __init__(self, folder: Path) -> None:
        self.runs = Runs(folder)
        self.parts = Parts()
        turn = threading.Lock()
        self.painter = Painter(self.runs, turn)
        self.processes = Processes(self.runs)
        self.data = ChosenData(turn)


def _desk(request: Request) -> Desk:
    return request.app.state.desk


AtDesk = Annotated[Desk, Depends(_desk)]


def run_dir(desk: Desk, name: str) -> Path:
    """A run's folder; 404 where there is none of that name."""
    try:
        return desk.runs.path(name)
    except KeyError:
        raise HTTPException(404) from None
