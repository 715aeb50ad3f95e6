"""Weights and arithmetic of full-size networks, without their weights: what docs/models.md and the recipes count with.

    python benchmarks/model_sizes.py

On the meta device, so that it takes seconds anywhere. FLOP are of one evaluation of one image (a multiplication and an
addition are two); a full update of K unrolled steps takes 3 K of them, 4 K with blocks recomputed, 5 K with steps too.
"""

import torch
from diffusers import PixArtTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from e2ed2.models.lora import lora_copies

RANK = 64
UNET = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2}


def pixart(side: int) -> tuple[nn.Module, dict[str, object]]:
    """PixArt XL/2 at `side` pixels, told sizes at 1024."""
    is_told = side == 1024
    network = PixArtTransformer2DModel(sample_size=side // 8, caption_channels=4096, use_additional_conditions=is_told)
    size = {"resolution": torch.ones(1, 2), "aspect_ratio": torch.ones(1, 1)} if is_told else {}
    no_size = dict.fromkeys(("resolution", "aspect_ratio"))
    arguments = {"encoder_hidden_states": torch.zeros(1, 120, 4096), "timestep": torch.ones(1)}
    return network, {**arguments, "added_cond_kwargs": size or no_size}


def sd15(side: int) -> tuple[nn.Module, dict[str, object]]:
    """Stable Diffusion 1.5."""
    network = UNet2DConditionModel(sample_size=side // 8, cross_attention_dim=768, attention_head_dim=8, **UNET)
    return network, {"encoder_hidden_states": torch.zeros(1, 77, 768), "timestep": torch.ones(1)}


def sdxl(side: int) -> tuple[nn.Module, dict[str, object]]:
    """SDXL's base."""
    network = UNet2DConditionModel(
        sample_size=side // 8, block_out_channels=(320, 640, 1280), cross_attention_dim=2048,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        **UNET,
    )  # fmt: skip
    added = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}
    arguments = {"encoder_hidden_states": torch.zeros(1, 77, 2048), "timestep": torch.ones(1)}
    return network, {**arguments, "added_cond_kwargs": added}


def sd3(side: int) -> tuple[nn.Module, dict[str, object]]:
    """Stable Diffusion 3 medium."""
    network = SD3Transformer2DModel(
        sample_size=128, num_layers=24, num_attention_heads=24, caption_projection_dim=1536, joint_attention_dim=4096,
        pooled_projection_dim=2048, in_channels=16, out_channels=16, pos_embed_max_size=192,
    )  # fmt: skip
    tokens = {"encoder_hidden_states": torch.zeros(1, 333, 4096), "pooled_projections": torch.zeros(1, 2048)}
    return network, {**tokens, "timestep": torch.ones(1)}


def count(weights: nn.Module) -> float:
    """Millions of trainable weights."""
    return sum(p.numel() for p in weights.parameters() if p.requires_grad) / 1e6


def main() -> None:
    print(f"| network | pixels | weights | adapter, rank {RANK} | TFLOP an evaluation |\n|---|---|---|---|---|")
    cases = (("PixArt XL/2", pixart, 512), ("PixArt XL/2", pixart, 1024), ("Stable Diffusion 1.5", sd15, 512),
             ("Stable Diffusion 3 medium", sd3, 1024), ("SDXL", sdxl, 1024))  # fmt: skip
    for name, make, side in cases:
        with torch.device("meta"):
            network, arguments = make(side)
            latents: Tensor = torch.zeros(1, 16 if make is sd3 else 4, side // 8, side // 8)
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                network(latents, **arguments)
            weights = count(network)
            adapter = count(lora_copies(network, 1, RANK)[0])
        teraflop = counter.get_total_flops() / 1e12
        print(f"| {name} | {side} | {weights:,.0f}M | {adapter:,.0f}M | {teraflop:.2f} |")


if __name__ == "__main__":
    main()
