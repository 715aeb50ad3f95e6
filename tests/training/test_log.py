"""Metrics and previews: never torn, never doubled."""

import errno
import json
import os
import subprocess
import sys

import pytest
import torch

from e2ed2.system.drawing.sheets import Sheet, read_sheet
from e2ed2.system.errors import UserError
from e2ed2.training.log import MetricsFile, read_metrics, write_preview

MACHINE = {"images_per_second": 2.5, "peak_memory_bytes": 100}


def rows(*steps):
    return [{"global_step": step, "images_seen": 8 * step, "total": 1 / 3, **MACHINE} for step in steps]


def write(path, *steps):
    file = MetricsFile(path, 0)
    for row in rows(*steps):
        file.write(row)
    return file


def test_rows_are_kept_to_the_last_digit(tmp_path):
    write(tmp_path / "m", 1, 2)
    assert read_metrics(tmp_path / "m") == rows(1, 2)
    assert read_metrics(tmp_path / "nothing") == []


def test_resuming_cuts_back_to_the_checkpoint(tmp_path):
    write(tmp_path / "m", 1, 2, 3, 4)
    file = MetricsFile(tmp_path / "m", 2)
    file.write(rows(3)[0])
    assert read_metrics(tmp_path / "m") == rows(1, 2, 3) and [file.resumed] == rows(2)
    assert MetricsFile(tmp_path / "new", 0).resumed == {}


WHOLE = json.dumps(rows(3)[0])
FOREIGN = [("3,", "3.0,"), ("3,", "true,"), ("24,", "null,"), ("2.5", "0"), ("100", "-1"), ("100", '"100"')]
FOREIGN += [("0.3333333333333333", value) for value in ('"a"', "[1]", "NaN", "true", "1" * 5000, "[" * 5000)]
TORN = [WHOLE, WHOLE[:30], "\0\0\0\n", "7\n", "{}\n", "\n", '{"global_step": 3}\n', " " * 2**20 + WHOLE + "\n"]


@pytest.mark.parametrize("torn", TORN + [WHOLE.replace(*change, 1) + "\n" for change in FOREIGN])
def test_a_torn_line_is_left_out_and_overwritten(tmp_path, torn):
    write(tmp_path / "m", 1, 2)
    with (tmp_path / "m").open("a") as file:
        file.write(torn)
    assert read_metrics(tmp_path / "m") == rows(1, 2)
    MetricsFile(tmp_path / "m", 5).write(rows(3)[0])
    assert (tmp_path / "m").read_text().count("\n") == 3 and read_metrics(tmp_path / "m") == rows(1, 2, 3)


def test_infinity_becomes_null(tmp_path):
    MetricsFile(tmp_path / "m", 0).write({**rows(1)[0], "grad_norm": float("inf")})
    assert (tmp_path / "m").read_text().endswith(', "grad_norm": null}\n')
    MetricsFile(tmp_path / "m", 1)  # resuming reads it again
    assert read_metrics(tmp_path / "m") == [{**rows(1)[0], "grad_norm": None}]


def test_a_row_that_does_not_fit_leaves_the_rows_before(tmp_path, monkeypatch):
    metrics = write(tmp_path / "m", 1)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"m: cannot be written \(No space left on device\)"):
        metrics.write(rows(2)[0])
    assert (tmp_path / "m").read_bytes().endswith(b"}\n") and read_metrics(tmp_path / "m") == rows(1)


def test_a_preview_is_a_png_of_a_row_a_caption(tmp_path):
    images = torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1).expand(9, 3, 2, 2)
    sheet = Sheet([f"number {i}" for i in range(9)], {"real": images, "sample": images + 100})
    write_preview(tmp_path / "samples" / "p.png", sheet)
    rows = read_sheet(tmp_path / "samples" / "p.png")
    assert [caption for caption, _ in rows] == sheet.captions
    shades = [[cell.getpixel((5, 5))[0] for cell in cells.values()] for _, cells in rows]
    assert shades == [[i, 100 + i] for i in range(9)] and list(rows[0][1]) == ["real", "sample"]


def test_a_child_of_a_large_process_has_a_small_peak():
    """Linux hands the parent's peak on with `ru_maxrss`."""
    large = torch.ones(2**28)  # a GiB, in memory
    peak = "from e2ed2.training.log import peak_memory_bytes as peak; print(peak())"
    done = subprocess.run([sys.executable, "-c", peak], capture_output=True, text=True, check=True)
    assert 2**26 < int(done.stdout) < large.nbytes
