"""Sheets of pictures: each where it belongs, under words of any script, and known again from the file."""

import json

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from e2ed2.sampling.folder import GRID_COLUMNS, grid
from e2ed2.system.drawing.pictures import CELL, GAP, HEAD, ROW_GAP, captioned, font, image_grid, shown, wrapped
from e2ed2.system.drawing.sheets import KEY, Sheet, read_sheet, sheet_png


def shade(value: int, width: int = 128, height: int = 128) -> Image.Image:
    return Image.new("RGB", (width, height), (value, value, value))


def test_a_grid_reads_row_by_row_and_is_white_at_the_end():
    images = torch.arange(3, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    grid = image_grid(images, columns=2)
    assert grid.size == (4, 4)
    assert [grid.getpixel(place)[0] for place in ((0, 0), (3, 1), (1, 3), (2, 2))] == [0, 1, 2, 255]


def test_every_caption_stands_over_its_own_row():
    rows = [("first", [shade(10), shade(20)]), ("", [shade(30)]), ("second", [shade(40, 64, 200)])]
    sheet, boxes = captioned(rows, ["a", "b"])
    assert boxes[0] == [(0, 2 * HEAD, 128, 2 * HEAD + 128), (128 + GAP, 2 * HEAD, 256 + GAP, 2 * HEAD + 128)]
    assert boxes[1][0][1] == boxes[0][0][3] + ROW_GAP, "no room for a caption that is empty"
    assert boxes[2][0][1] == boxes[1][0][3] + ROW_GAP + HEAD and boxes[2][0][3] == sheet.height
    found = [sheet.getpixel((left + 1, bottom - 1))[0] for row in boxes for left, _, _, bottom in row]
    assert found == [10, 20, 30, 40]
    words = sheet.crop((0, boxes[1][0][3] + ROW_GAP, sheet.width, boxes[2][0][1]))
    assert words.getextrema()[0][0] < 128, "something is written there"


def test_small_pixels_stay_visible_and_large_pictures_are_bounded():
    assert [shown(shade(0, side, side)).width for side in (4, 64, 100, 128, 256, 512)] == [128, 128, 200, 128, 256, 256]
    assert shown(shade(0, 1024, 256)).size == (CELL, CELL // 4) and shown(shade(0, 5000, 1)).size == (CELL, 1)


def test_words_are_wrapped_and_what_is_cut_ends_in_dots():
    text = "a very long caption of a red fox that jumps over many lazy dogs in the snow at night"
    lines = wrapped(text, 200, 9)
    assert " ".join(lines) == text and all(font().getlength(line) <= 200 for line in lines)
    cut = wrapped(text, 200, 2)
    assert cut[0] == lines[0] and len(cut) == 2
    assert text.startswith(" ".join(cut)[:-3]) and cut[1].endswith("...") and font().getlength(cut[1]) <= 200
    assert wrapped("short", 200) == ["short"] and wrapped("  \n ", 200) == []
    assert "".join(wrapped("x" * 90, 100, 99)) == "x" * 90, "a word wider than the line is broken anywhere"


WORDS = ["été über", "рыжая лиса", "αβγ", "红色的狐狸 " * 90, "قطة", "🦊🚀", "a\ud800b\0\n\x1b[31m"]


@pytest.mark.parametrize("text", WORDS)
def test_any_letters_can_be_written(tmp_path, text):
    sheet = Sheet([text], {"real": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)})
    (tmp_path / "sheet.png").write_bytes(sheet_png(sheet))
    ((caption, _),) = read_sheet(tmp_path / "sheet.png")
    assert caption == {WORDS[-1]: "a?b [31m"}.get(text, text.strip())


def test_a_prompt_never_shares_a_row_and_a_grid_is_bounded():
    def height(prompts):
        return grid([(prompt, torch.zeros(3, 128, 128, dtype=torch.uint8)) for prompt in prompts]).height

    assert height(["cat", "dog"]) == 2 * (HEAD + 128) + ROW_GAP
    assert height(["cat", "dog", "cat"]) == height(["cat", "dog"]), "a prompt's images stand together"
    assert height(["cat"] * (GRID_COLUMNS + 1)) == HEAD + 2 * 128 + ROW_GAP
    assert height([str(i) for i in range(64)]) == height([str(i) for i in range(32)])


@pytest.mark.parametrize(
    "text",
    [
        None,
        "no JSON",
        "[" * 5000,
        "{}",
        json.dumps({"captions": ["a", "b"], "columns": ["real"], "boxes": [[[0, 0, 1, 1]]]}),
        json.dumps({"captions": ["a"], "columns": ["real"], "boxes": [[[0, 0, 1, 1], [0, 0, 1, 1]]]}),
        json.dumps({"captions": ["a"], "columns": ["real"], "boxes": [[[0, 0, 1]]]}),
        json.dumps({"captions": ["a"], "columns": ["real"], "boxes": [[[1, 0, 1, 1]]]}),
        json.dumps({"captions": ["a"], "columns": ["real"], "boxes": [[[0, 0, 10**9, 1]]]}),
        json.dumps({"captions": ["a"], "columns": ["real"], "boxes": [[[-1, 0, 1, 1]]]}),
    ],
)
def test_a_picture_that_is_no_sheet_is_none(tmp_path, text):
    about = PngInfo()
    if text is not None:
        about.add_itxt(KEY, text)
    shade(0).save(tmp_path / "p.png", pnginfo=about)
    assert read_sheet(tmp_path / "p.png") is None


def test_a_torn_sheet_is_none(tmp_path):
    png = sheet_png(Sheet(["a"], {"real": torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8)}))
    for length in (0, 20, len(png) // 2):
        (tmp_path / "p.png").write_bytes(png[:length])
        assert read_sheet(tmp_path / "p.png") is None
    assert read_sheet(tmp_path / "nothing.png") is None
