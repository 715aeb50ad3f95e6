"""How often the mark is found again, on drawings and photographs of 512 px, and what it does to them.

    npm pack @iconify-json/noto@1.2.9 && tar xzf iconify-json-noto-1.2.9.tgz
    apt-get download tuxpaint-stamps-default
    python -m benchmarks.watermark package/icons.json tuxpaint-stamps-default_2022.06.04-1_all.deb [--num 100]

Drawings come from noto's SVGs, photographs from the Debian package of `benchmarks.photographs`, those whose longer side
has 300 pixels at the least, on white, enlarged to 512; both are drawn by chance, seed 0. Prints Markdown as it goes.
`--bfloat16` runs the mark's networks in that precision, four times faster where the processor has it.
"""

import argparse
import io
import json
import random
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.photographs import cut, files_of, is_photograph
from e2ed2.emoji.dataset import draw_svg
from e2ed2.evaluation.features.efficientnet import EfficientNetFeatures
from e2ed2.evaluation.metrics.distribution import kernel_distance
from e2ed2.evaluation.metrics.intervals import Estimate, mean_estimate, share_estimate
from e2ed2.evaluation.metrics.pixels import laplacian_energy
from e2ed2.provenance import rivagan
from e2ed2.provenance.watermark import FALSE_ALARM, chance_of, mark, message
from e2ed2.system.drawing.pictures import to_picture

SIDE, LEAST_PHOTOGRAPH = 512, 300
Change = Callable[[Image.Image], Image.Image]


def jpeg(quality: int) -> Change:
    def change(picture: Image.Image) -> Image.Image:
        out = io.BytesIO()
        picture.save(out, "jpeg", quality=quality)
        return Image.open(out).convert("RGB")

    return change


def half(picture: Image.Image) -> Image.Image:
    return picture.resize((SIDE // 2, SIDE // 2), Image.Resampling.LANCZOS)


def cropped(picture: Image.Image) -> Image.Image:
    """Without a quarter of its area: a strip at the right and one at the bottom."""
    side = round(SIDE * 0.75**0.5)
    return picture.crop((0, 0, side, side))


def screenshot(picture: Image.Image) -> Image.Image:
    """Shown at 125% on a white page with a margin, of which a JPEG is taken."""
    page = Image.new("RGB", (704, 704), "white")
    page.paste(picture.resize((640, 640), Image.Resampling.BILINEAR), (32, 32))
    return jpeg(90)(page)


CHANGES: dict[str, Change] = {
    "PNG again": lambda picture: picture,
    **{f"JPEG {quality}": jpeg(quality) for quality in (95, 85, 75, 65, 50)},
    "half the size": half,
    "a quarter cropped": cropped,
    "screenshot": screenshot,
}


def drawings(icons: Path, num: int) -> list[Image.Image]:
    content = json.loads(icons.read_text())
    names = random.Random(0).sample(sorted(content["icons"]), num)
    xlink = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    bodies = (content["icons"][name]["body"] for name in names)
    return [to_picture(draw_svg(f'<svg {xlink} viewBox="0 0 128 128">{body}</svg>', SIDE)) for body in bodies]


def photographs(package: Path, num: int) -> list[Image.Image]:
    files, found = dict(files_of(package)), []
    for path in sorted(path for path in files if path.suffix == ".png" and path.with_suffix(".txt") in files):
        image = Image.open(io.BytesIO(files[path])).convert("RGBA")
        if is_photograph(path, image) and max(cut(image).size) >= LEAST_PHOTOGRAPH:
            found.append(cut(image))
    pictures = []
    for image in random.Random(0).sample(found, min(num, len(found))):
        side = max(image.size)
        canvas = Image.new("RGBA", (side, side), "white")
        canvas.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
        pictures.append(canvas.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    return pictures


def chance(picture: Image.Image) -> float:
    return chance_of(rivagan.extract(picture) * (2 * torch.tensor(message(rivagan.NUM_BITS)) - 1))


def share(chances: list[float]) -> str:
    """How many are found, with Wilson's 95% interval."""
    found = torch.tensor(chances) <= FALSE_ALARM
    estimate = share_estimate(found)
    return f"{int(found.sum())}/{len(found)}, {figure(estimate)}"


def figure(estimate: Estimate, form: str = ".2f") -> str:
    return f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def pixels(pictures: list[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.array(picture) for picture in pictures])).permute(0, 3, 1, 2)


def measure(kind: str, pictures: list[Image.Image]) -> None:
    marked = [mark(picture) for picture in pictures]
    before, after = pixels(pictures), pixels(marked)
    psnr = -10 * ((before.double() - after) / 255).square().mean((1, 2, 3)).log10()
    print(f"\n### {kind}, {len(pictures)}\n\n| | found, 95% interval |\n|---|---|", flush=True)
    for name, change in CHANGES.items():
        print(f"| {name} | {share([chance(change(picture)) for picture in marked])} |", flush=True)
    print(f"| without a mark | {share([chance(picture) for picture in pictures])} |")
    print(f"\nPSNR {figure(mean_estimate(psnr), '.1f')} dB")
    energy = laplacian_energy(after).double() / laplacian_energy(before)
    print(f"Laplacian energy of an image, marked over unmarked: {figure(mean_estimate(energy), '.3f')}")
    with torch.autocast("cpu", enabled=False):
        of_before, of_after = (EfficientNetFeatures()(list(images)) for images in (before, after))
    middle = len(pictures) // 2
    for name, features in (("without", of_before), ("with", of_after)):
        distance = kernel_distance(features[middle:], of_before[:middle])
        print(f"Kernel distance of one half to the other, {name} the mark: {figure(distance, '.4f')}", flush=True)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description="How often the mark is found again.")
    parser.add_argument("icons", type=Path)
    parser.add_argument("package", type=Path)
    parser.add_argument("--num", type=int, default=100)
    parser.add_argument("--bfloat16", action="store_true")
    options = parser.parse_args()
    with torch.autocast("cpu", torch.bfloat16) if options.bfloat16 else nullcontext():
        measure("Photographs", photographs(options.package, options.num))
        measure("Drawings", drawings(options.icons, options.num))


if __name__ == "__main__":
    main()
