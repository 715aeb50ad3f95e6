"""What a run leaves to read: `metrics.jsonl`, previews, versions and hardware."""

import ctypes
import gc
import json
import math
import os
import platform
import resource
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from pydantic import ConfigDict

from e2ed2.recipe.fields import Count, Positive
from e2ed2.system.drawing.sheets import Sheet, sheet_png
from e2ed2.system.files import raise_if_disk_refused, write_file
from e2ed2.system.readers.json_file import parse_json
from e2ed2.system.readers.typed import Record, checked

MAX_LINE = 2**20  # bytes of a row; one has a few hundred


class _Row(Record):
    """What every row has; all else in it are numbers too, or null for what was not finite."""

    model_config = ConfigDict(allow_inf_nan=False)
    __pydantic_extra__: dict[str, int | float | None]

    global_step: Count
    images_seen: Count
    images_per_second: Positive
    peak_memory_bytes: Count


class MetricsFile:
    """`metrics.jsonl`: one complete line per log step, cut back to the checkpoint's step on resume.

    Attributes:
        resumed: the last row that was left then, empty in a new run.
    """

    def __init__(self, path: Path, global_step: int):
        self._path = path
        rows = [row for row in read_metrics(path) if row["global_step"] <= global_step]
        self.resumed: dict[str, float] = rows[-1] if rows else {}
        write_file(path, b"".join(_line(row) for row in rows))

    def write(self, row: dict[str, float]) -> None:
        """Append a row, durable when this returns.

        Raises:
            UserError: the disk is full or refuses; the file ends with the row before.
        """
        try:
            size = self._path.stat().st_size
            try:
                with self._path.open("ab") as file:
                    file.write(_line(row))
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    os.truncate(self._path, size)
                raise
        except OSError as error:
            raise_if_disk_refused(self._path, error)


def _line(row: Mapping[str, float | None]) -> bytes:
    """One line of JSON, which has no word for infinity (an overflow that fp16 skipped): null."""
    plain = {k: value if value is not None and math.isfinite(value) else None for k, value in row.items()}
    return (json.dumps(plain) + "\n").encode()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics file up to the first that is torn (a kill while writing) or foreign."""
    return read_rows(path, 0)[0] if path.is_file() else []


def read_rows(path: Path, offset: int) -> tuple[list[dict[str, float]], int]:
    """As `read_metrics`, from a byte of the file on; and where to go on when more is written."""
    rows = []
    with path.open("rb") as file:
        file.seek(offset)
        while (line := file.readline(MAX_LINE)).endswith(b"\n"):
            try:
                row = parse_json(line)
                checked(_Row, row, "row")
            except ValueError:
                break
            rows.append(row)
            offset += len(line)
    return rows, offset


def write_preview(path: Path, sheet: Sheet) -> None:
    """A row for each caption of the preview, as PNG.

    Raises:
        UserError: the disk is full or refuses.
    """
    write_file(path, sheet_png(sheet))


def peak_memory_bytes() -> int:
    """The accelerator's peak allocation, or the process's peak resident size on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with suppress(OSError, StopIteration):  # Linux, where `ru_maxrss` begins with the peak of the parent process
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def reset_peak_memory() -> None:
    """Begin anew with what `peak_memory_bytes` reports; on a CPU only Linux can."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what an earlier run in this process has freed
        Path("/proc/self/clear_refs").write_text("5")
