"""Eight captioned images of one colour each."""

from pathlib import Path

from PIL import Image


def save_photos(folder: Path) -> Path:
    folder.mkdir()
    for i in range(8):
        Image.new("RGB", (64, 64), (30 * i, 255 - 30 * i, 90)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"colour {i}")
    return folder
