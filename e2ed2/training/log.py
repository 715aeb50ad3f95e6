"""What a run says: `metrics.jsonl`, a progress bar, preview grids."""

import json
import os
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor


class MetricsFile:
    """`metrics.jsonl`: one complete line per log step, cut back to the checkpoint's step on resume."""

    def __init__(self, path: Path, global_step: int):
        self._path = path
        rows = [row for row in read_metrics(path) if row["global_step"] <= global_step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        temporary.replace(path)

    def write(self, row: dict[str, float]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The complete rows of a metrics file; a torn last line (a kill while writing) is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            rows.append(json.loads(line))
    return rows


def image_grid(images: Tensor, columns: int) -> Image.Image:
    """uint8 [N, 3, H, W] -> one picture, row by row, white where N does not fill the last row."""
    count, _, height, width = images.shape
    rows = -(-count // columns)
    grid = torch.full((rows * columns, 3, height, width), 255, dtype=torch.uint8)
    grid[:count] = images
    tiled = grid.view(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2)
    return Image.fromarray(tiled.reshape(rows * height, columns * width, 3).numpy())
