"""The runs of a folder: found by looking, known by their paths in it, read a little at a time."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from e2ed2.evaluation.results import read_results
from e2ed2.reports.run_state import Told, told
from e2ed2.system.errors import UserError
from e2ed2.training.journal.state import STATE_FILE, Best
from e2ed2.training.log import read_rows
from e2ed2.training.validation import deciding_metric

MOST_DEEP = 4  # folders: runs/SUITE/ROW/SEED
MOST_RUNS = 2000
MARKS = ("config.yaml", STATE_FILE, "metrics.jsonl")  # a folder with one of them is a run
READ = (
    *MARKS, "data_summary.json", "environment.json", "metrics.json", "console.log", "report.html", "samples",
    "evaluation",
)  # fmt: skip
RESULTS = ("finetuned", "demo")  # what `metrics.json` calls the trained model
EVALUATION, COMPARISON = "evaluation.json", "compare.html"
FRESH, LATEST, SHARE = 1.0, 5.0, 50.0  # seconds for which a list is not made anew, at least and at most; times its own


@dataclass(frozen=True)
class Listing:
    """What lies in a folder of runs, by path in it.

    Attributes:
        runs: those that are being worked on first, then the newest. refused: why a run is not shown.
        evaluations, comparisons: outside of runs.
    """

    runs: dict[str, Told]
    refused: dict[str, str]
    evaluations: list[str]
    comparisons: list[str]


@dataclass
class _Rows:
    """Rows of a metrics file as far as it was read."""

    inode: int = 0
    offset: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)


class Runs:
    """The runs of a folder, or one run. No path of a request meets the disk: names are looked up among what is found.

    Links are not followed: a link inside of `READ` would lead to files outside.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._found: Listing | None = None
        self._paths: dict[str, Path] = {}
        self._until = 0.0
        self._busy = threading.Lock()
        self._metrics: dict[str, _Rows] = {}
        self._told_before: dict[Path, tuple[tuple[int, ...], Told]] = {}

    def listing(self) -> Listing:
        """All of it, as it was at most some seconds ago."""
        with self._busy:
            if self._found is None or time.monotonic() >= self._until:
                started = time.monotonic()
                self._found = self._look()
                took = time.monotonic() - started
                self._until = started + max(FRESH, min(SHARE * took, LATEST))
            return self._found

    def forget(self) -> None:
        """Something was changed by us: look anew."""
        self._until = 0.0

    def path(self, name: str) -> Path:
        """A run's folder; KeyError where there is no such run."""
        listing = self.listing()
        if name not in listing.runs:
            raise KeyError(name)
        return self._paths[name]

    def other(self, name: str) -> Path:
        """The folder of an evaluation or a comparison outside of runs; KeyError where there is none."""
        listing = self.listing()
        if name not in (*listing.evaluations, *listing.comparisons):
            raise KeyError(name)
        return self.folder / name

    def rows(self, name: str) -> list[dict[str, float]]:
        """The rows of a run's metrics; only what is new is read."""
        path = self.path(name) / "metrics.jsonl"
        try:
            about = path.stat()
        except OSError:
            return []
        with self._busy:
            known = self._metrics.get(name, _Rows())
            if known.inode != about.st_ino or about.st_size < known.offset:  # a resumed run writes another file
                known = _Rows(about.st_ino)
            rows, offset = read_rows(path, known.offset)
            self._metrics[name] = _Rows(about.st_ino, offset, [*known.rows, *rows])
            return self._metrics[name].rows

    def _told(self, path: Path, files: dict[str, os.DirEntry[str]]) -> Told:
        """What a run is doing; of one that has ended it is read again only when it has changed."""
        changed = tuple(files[name].stat().st_mtime_ns if name in files else 0 for name in (*MARKS, "metrics.json"))
        known = self._told_before.get(path)
        if known is not None and known[0] == changed and not known[1].is_live:
            return known[1]
        found = told(path)
        if found.best is None and "metrics.json" in files:
            found = replace(found, best=_measured(path / "metrics.json"))
        self._told_before[path] = changed, found
        return found

    def _look(self) -> Listing:
        """Walk through the folder."""
        runs: dict[str, Told] = {}
        refused, evaluations, comparisons = {}, [], []
        for path, files in _folders(self.folder, MOST_DEEP):
            name = path.name if path == self.folder else path.relative_to(self.folder).as_posix()
            if not any(mark in files for mark in MARKS):
                if EVALUATION in files and not files[EVALUATION].is_symlink():
                    evaluations.append(name)
                if COMPARISON in files and not files[COMPARISON].is_symlink():
                    comparisons.append(name)
                continue
            links = [each for each in READ if each in files and files[each].is_symlink()]
            if links:
                refused[name] = f"{links[0]} is a link, which may lead anywhere; put a copy in its place"
            elif len(runs) < MOST_RUNS:
                found = self._told(path, files)
                runs[name], self._paths[name] = found, path
        ordered = sorted(runs.items(), key=lambda run: (not run[1].is_live, -run[1].changed))
        return Listing(dict(ordered), refused, sorted(evaluations), sorted(comparisons))


def _measured(path: Path) -> Best | None:
    """What was measured of a finished fine-tune or demo, by the first metric that has a better side."""
    try:
        rows = [row for row in read_results(path) if row["model"] in RESULTS]
        metrics: dict[str, Any] = rows[0]["metrics"]
        metric = deciding_metric(None, metrics)
    except (UserError, LookupError, StopIteration):
        return None
    value, low, high = (float(metrics[metric][name]) for name in ("value", "low", "high"))
    return Best(metric=metric, value=value, low=low, high=high, step=0)


def _folders(folder: Path, deep: int) -> Iterator[tuple[Path, dict[str, os.DirEntry[str]]]]:
    """A folder and those in it, (path, what lies in it); nothing below a run, hidden, or behind a link."""
    try:
        files = {entry.name: entry for entry in os.scandir(folder)}
    except OSError:
        return
    yield folder, files
    if deep == 0 or any(mark in files for mark in MARKS):
        return
    for name, entry in files.items():
        if not name.startswith(".") and entry.is_dir(follow_symlinks=False):
            yield from _folders(folder / name, deep - 1)
