"""Draws `images.tar` from the npm package `@iconify-json/noto` 1.2.9, which needs npm.

Run as `python e2ed2/emoji/noto/make.py`.
"""

import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

from e2ed2.emoji.dataset import IMAGE_SIZE, draw_svg, names_by_codepoint
from e2ed2.system.drawing.pictures import to_picture

PACKAGE = "@iconify-json/noto@1.2.9"
HERE = Path(__file__).parent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        packed = subprocess.run(["npm", "pack", PACKAGE], cwd=folder, check=True, capture_output=True, text=True)
        with tarfile.open(Path(folder) / packed.stdout.split()[-1]) as package:
            icons, chars = (json.load(_file(package, f"package/{name}.json")) for name in ("icons", "chars"))
    by_codepoint = {"-".join(p for p in points.split("-") if p != "fe0f"): name for points, name in chars.items()}
    names = names_by_codepoint()
    with tarfile.open(HERE / "images.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for points in sorted(set(names) & set(by_codepoint)):
            icon = by_codepoint[points]
            icon = icons["aliases"].get(icon, {}).get("parent", icon)
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 128 128">{icons["icons"][icon]["body"]}</svg>'
            png = io.BytesIO()
            to_picture(draw_svg(svg, IMAGE_SIZE)).save(png, "webp", lossless=True, method=6, quality=100)
            _add(tar, f"{points}.webp", png.getvalue())
            _add(tar, f"{points}.txt", names[points].encode())


def _file(package: tarfile.TarFile, name: str) -> io.BufferedReader:
    file = package.extractfile(name)
    assert isinstance(file, io.BufferedReader)
    return file


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


if __name__ == "__main__":
    main()
