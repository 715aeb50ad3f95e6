"""Grids: common prompts and seeds only, cells where they belong, the zoomed square enlarged."""

import json

import pytest
import torch

from e2ed2.reports.grids import common_samples, parse_zoom
from e2ed2.system.drawing.pictures import CELL, GAP, HEAD, Zoom, labelled_grid
from e2ed2.system.errors import UserError
from tests.evaluation.tiny import draw_images


def folder(path, rows):
    draw_images(path / "images", len(rows), side=16)
    entries = [{"file": f"images/{i:04d}.png", "prompt": p, "seed": s} for i, (p, s) in enumerate(rows)]
    (path / "manifest.json").write_text(json.dumps({"made_by": "e2ed2 0", "images": entries}))
    return path


def test_prompts_and_seeds_that_all_models_have(tmp_path):
    one = folder(tmp_path / "one", [("cat", 0), ("cat", 1), ("dog", 2), ("owl", 3)])
    two = folder(tmp_path / "two", [("owl", 3), ("dog", 9), ("cat", 1)])
    columns = common_samples({"one": one, "two": two, "no samples": tmp_path}, 6)
    assert {name: [prompt for prompt, _ in images] for name, images in columns.items()} == {
        "one": ["cat", "owl"], "two": ["cat", "owl"],
    }  # fmt: skip
    assert not common_samples({"none": tmp_path}, 6)


def test_cells_hold_the_pictures_and_the_zoomed_square():
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    image[0] = 255
    image[:, 4:8, 8:12] = torch.tensor([0, 255, 0], dtype=torch.uint8).view(3, 1, 1)
    columns = {"a": [("cat", image)], "b": [("cat", 255 - image)]}
    sheet = labelled_grid(columns, Zoom(0.5, 0.25, 0.25))
    assert sheet.size == (4 * CELL + GAP, 2 * HEAD + CELL)
    middle = 2 * HEAD + CELL // 2
    assert sheet.getpixel((3, middle)) == (255, 0, 0)
    assert sheet.getpixel((CELL + CELL // 2, middle)) == (0, 255, 0), "all green: the square alone"
    assert sheet.getpixel((2 * CELL + GAP + 3, middle)) == (0, 255, 255)
    assert labelled_grid(columns).size == (2 * CELL + GAP, 2 * HEAD + CELL)


@pytest.mark.parametrize("text", ["0.5,0.5", "a,b,c", "0.9,0.5,0.2", "0,0,0"])
def test_a_zoom_out_of_the_picture_is_refused(text):
    with pytest.raises(UserError, match="--zoom"):
        parse_zoom(text)
