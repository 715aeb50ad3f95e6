"""Full-size networks with random weights, and tiny ones of the same classes, in pipelines without text encoders."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor

from e2ed2.models.families import family_of, network_of
from e2ed2.models.prompt_embeds import PromptEmbeds
from e2ed2.models.scheduler import noise_scheduler

UNET = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2}
SD3_SIZE = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "joint_attention_dim": 4096}
TINY_PIXART = {
    "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16, "cross_attention_dim": 32,
    "caption_channels": 32,
}  # fmt: skip
TINY_UNET = {
    "block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 32, "attention_head_dim": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "transformer_layers_per_block": 1,
    "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 48 + 32,
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A pipeline of a network and a scheduler, for pictures of `side` pixels and prompts of `num_tokens`."""

    pipeline: Any
    num_tokens: int
    side: int

    def latents(self, batch_size: int) -> Tensor:
        """Random ones, [B, C, side / 8, side / 8]."""
        side = self.side // self.pipeline.vae_scale_factor
        return torch.randn(batch_size, network_of(self.pipeline).config.in_channels, side, side)

    def condition(self, batch_size: int) -> PromptEmbeds:
        """Random embeddings of prompts of full length."""
        family = family_of(self.pipeline)
        width, pooled_width = family.widths(self.pipeline)
        is_masked = isinstance(self.pipeline, PixArtAlphaPipeline)
        mask = torch.ones(batch_size, self.num_tokens) if is_masked else None
        pooled = None if pooled_width is None else torch.randn(batch_size, pooled_width)
        return PromptEmbeds(torch.randn(batch_size, self.num_tokens, width), mask, pooled)


def pixart(side: int, **size: Any) -> Model:
    """PixArt XL/2 at `side` pixels, told sizes at 1024."""
    size = {"caption_channels": 4096, **size}
    transformer = PixArtTransformer2DModel(sample_size=side // 8, use_additional_conditions=side == 1024, **size)
    parts = {**dict.fromkeys(("tokenizer", "text_encoder")), "vae": autoencoder(32)}  # for the side of its cells
    scheduler = _on_cpu(noise_scheduler, "lcm", "v_prediction")
    return Model(PixArtAlphaPipeline(**parts, transformer=transformer, scheduler=scheduler), 120, side)


def sd15(side: int) -> Model:
    """Stable Diffusion 1.5."""
    unet = UNet2DConditionModel(sample_size=side // 8, cross_attention_dim=768, attention_head_dim=8, **UNET)
    names = ("tokenizer", "text_encoder", "vae", "safety_checker", "feature_extractor")
    parts = {**dict.fromkeys(names), "scheduler": _on_cpu(DDIMScheduler, steps_offset=1, clip_sample=False)}
    return Model(StableDiffusionPipeline(**parts, unet=unet, requires_safety_checker=False), 77, side)


def sdxl(side: int, **size: Any) -> Model:
    """SDXL's base."""
    full = {
        "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20),
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816, **UNET,
    }  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=side // 8, addition_embed_type="text_time", use_linear_projection=True, **{**full, **size}
    )
    names = ("tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2")
    parts = {**dict.fromkeys(names), "vae": autoencoder(32)}
    scheduler = _on_cpu(noise_scheduler, "lcm", "v_prediction")
    return Model(StableDiffusionXLPipeline(**parts, unet=unet, scheduler=scheduler, add_watermarker=False), 77, side)


def sd3(side: int) -> Model:
    """Stable Diffusion 3 medium."""
    transformer = SD3Transformer2DModel(
        sample_size=128, pooled_projection_dim=2048, in_channels=16, out_channels=16, pos_embed_max_size=192, **SD3_SIZE
    )
    names = ("tokenizer", "tokenizer_2", "tokenizer_3", "text_encoder", "text_encoder_2", "text_encoder_3", "vae")
    scheduler = _on_cpu(FlowMatchEulerDiscreteScheduler, shift=3.0)
    pipeline = StableDiffusion3Pipeline(**dict.fromkeys(names), transformer=transformer, scheduler=scheduler)
    return Model(pipeline, 333, side)


def autoencoder(width: int = 128) -> AutoencoderKL:
    """Stable Diffusion's; `width` of its outermost block."""
    return AutoencoderKL(
        block_out_channels=(width, 2 * width, 4 * width, 4 * width), layers_per_block=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip


def _on_cpu(scheduler: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Its levels have values, also where the network around it has none (the meta device)."""
    with torch.device("cpu"):
        return scheduler(*args, **options)
