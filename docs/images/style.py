"""Draws `style.png` from a finished `e2ed2 demo --style`: captions held out, evenly, none picked by hand.

    python docs/images/style.py runs/style
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from e2ed2.data.batch import spread
from e2ed2.demo.style import PROTOCOL, START, STYLE
from e2ed2.emoji.styles import load_style
from e2ed2.reports.comparisons import first_of_each
from e2ed2.sampling.folder import read_manifest
from e2ed2.sampling.generate import Request
from e2ed2.sampling.model import load_model
from e2ed2.system.drawing.pictures import image_grid

COLUMNS = 12
ROWS = (("ordinary", 4), ("finetuned", 4), ("finetuned", 1))


def main() -> None:
    folder = Path(sys.argv[1]) / "evaluation"
    heldout = load_style(STYLE, "heldout")
    real = dict(zip(heldout.captions, heldout.images, strict=True))
    made = [first_of_each(folder / f"{model}-{PROTOCOL}-{nfe}") for model, nfe in ROWS]
    captions = list(made[0])
    shown = [captions[i] for i in spread(len(captions), COLUMNS).tolist()]
    manifest = read_manifest(folder / f"finetuned-{PROTOCOL}-4")
    assert manifest is not None
    seeds = {row.prompt: row.seed for row in reversed(manifest.images)}
    start = load_model(START, 4).sampler([Request(caption, int(seeds[caption] or 0)) for caption in shown])
    rows = [torch.stack([real[c] for c in shown]), start, *(torch.stack([images[c] for c in shown]) for images in made)]
    images = F.interpolate(torch.cat(rows).float(), scale_factor=1.5, mode="bicubic").clamp(0, 255).byte()
    image_grid(images, COLUMNS).save(Path(__file__).with_name("style.png"))


if __name__ == "__main__":
    main()
