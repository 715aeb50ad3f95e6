"""Draws `chain.png`: evenly spaced Twemoji prompts of protocol `emoji`, none picked by hand; one seed for both models.

    python docs/images/chain.py
"""

from pathlib import Path

import torch
import torch.nn.functional as F

import e2ed2.emoji.protocols  # noqa: F401 - adds its protocols
from e2ed2.evaluation.protocols import read_protocol
from e2ed2.models.autoencoder import decode, encode_all, to_uint8
from e2ed2.models.folders.bundled import resolve_model
from e2ed2.models.folders.pipeline import load_autoencoder
from e2ed2.sampling.model import load_model
from e2ed2.system.drawing.pictures import image_grid
from e2ed2.system.watch import silent

COLUMNS = 12
MODELS = ("emoji-lcm", "emoji-e2ed2")  # at 4 NFE each


def main() -> None:
    asked = read_protocol("emoji").load("emoji", None, None, silent)
    floor = asked.floors["real"]()
    prompts = floor.asked.prompts
    chosen = [i for i, prompt in enumerate(prompts) if "twemoji" in prompt]
    chosen = chosen[:: len(chosen) // COLUMNS][:COLUMNS]
    real = floor.images[chosen]
    autoencoder = load_autoencoder(resolve_model("emoji-autoencoder"))
    with torch.inference_mode():
        rows = [real, to_uint8(decode(autoencoder, encode_all(autoencoder, real)))]
    first = {r.prompt: r for r in reversed(asked.requests(seed=0))}
    requests = [first[prompts[i]] for i in chosen]
    rows += [load_model(name, 4).sampler(requests) for name in MODELS]
    images = F.interpolate(torch.cat(rows).float(), scale_factor=1.5, mode="bicubic").clamp(0, 255).byte()
    image_grid(images, COLUMNS).save(Path(__file__).with_name("chain.png"))


if __name__ == "__main__":
    main()
