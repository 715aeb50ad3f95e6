"""Weights and arithmetic of full-size networks, without their weights: what docs/models.md and the recipes count with.

    python -m benchmarks.model_sizes

On the meta device, so that it takes seconds anywhere. FLOP are of one evaluation of one image (a multiplication and an
addition are two); a full update of K unrolled steps takes 3 K of them, 4 K with blocks recomputed, 5 K with steps too.
"""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.networks import Model, pixart, sd3, sd15, sdxl
from e2ed2.models.denoiser import denoiser_of
from e2ed2.models.families import network_of
from e2ed2.models.lora.adapter import lora_copies

RANK = 64


def count(weights: nn.Module) -> float:
    """Millions of trainable weights."""
    return sum(p.numel() for p in weights.parameters() if p.requires_grad) / 1e6


def evaluation_flops(model: Model) -> int:
    """Of one evaluation of the network for one image; the model is on the meta device."""
    denoise = denoiser_of(model.pipeline, network_of(model.pipeline))
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        denoise(model.latents(1), torch.ones(1), model.condition(1))
    return counter.get_total_flops()


def main() -> None:
    print(f"| network | pixels | weights | adapter, rank {RANK} | TFLOP an evaluation |\n|---|---|---|---|---|")
    cases = (("PixArt XL/2", pixart, 512), ("PixArt XL/2", pixart, 1024), ("Stable Diffusion 1.5", sd15, 512),
             ("Stable Diffusion 3 medium", sd3, 1024), ("SDXL", sdxl, 1024))  # fmt: skip
    for name, make, side in cases:
        with torch.device("meta"):
            model = make(side)
        teraflop, weights = evaluation_flops(model) / 1e12, count(network_of(model.pipeline))
        with torch.device("meta"):
            adapter = count(lora_copies(network_of(model.pipeline), 1, RANK)[0])
        print(f"| {name} | {side} | {weights:,.0f}M | {adapter:,.0f}M | {teraflop:.2f} |")


if __name__ == "__main__":
    main()
