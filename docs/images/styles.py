"""Draws `styles.png`: evenly spaced prompts of `emoji-anystyle`, which leave the style open, four samples of each.

    python docs/images/styles.py MODEL ...

A row a prompt, a block of four columns a model: the same noises for all. In the file: emoji-lcm, and from it plain L2
(`recipes/emoji/l2.yaml`, 300 updates), and two rows of `recipes/ablation/table2.yaml`, seed 0: L2+LPIPS+MMD and
`recommended`.
"""

import sys
from pathlib import Path

import torch

import e2ed2.emoji.protocols  # noqa: F401 - adds its protocols
from e2ed2.evaluation.protocols import read_protocol
from e2ed2.sampling.model import load_model
from e2ed2.system.drawing.pictures import image_grid
from e2ed2.system.watch import silent

ROWS, STEPS = 10, 4


def main() -> None:
    if not sys.argv[1:]:
        raise SystemExit("give one or more models, as in: python docs/images/styles.py emoji-lcm emoji-e2ed2")
    asked = read_protocol("emoji-anystyle").load("emoji-anystyle", None, None, silent)
    count = asked.samples_per_prompt
    num_prompts = len(asked.prompts) // count
    places = range(0, num_prompts, num_prompts // ROWS)
    requests = [r for i in places[:ROWS] for r in asked.requests(seed=0)[count * i : count * (i + 1)]]
    blocks = []
    for name in sys.argv[1:]:
        images = load_model(name, STEPS).sampler(requests).unflatten(0, (ROWS, count))
        blocks += [images, torch.full_like(images[:, :1], 255)]  # an empty column between two models
    grid = torch.cat(blocks[:-1], 1)
    image_grid(grid.flatten(0, 1), grid.shape[1]).quantize(256).save(Path(__file__).with_name("styles.png"))


if __name__ == "__main__":
    main()
