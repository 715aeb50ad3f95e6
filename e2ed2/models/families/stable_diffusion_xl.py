"""SDXL (arXiv:2307.01952); SDXL-Turbo, SDXL-Lightning and SDXL-LCM are the same with other weights or schedulers."""

from typing import Any

import torch
from torch import Tensor

from e2ed2.models.families.base import image_size
from e2ed2.models.families.stable_diffusion import StableDiffusion
from e2ed2.models.prompt_embeds import PromptEmbeds


class StableDiffusionXL(StableDiffusion):
    """Two text encoders side by side, the pooled vector of the second, and six numbers on the picture's size."""

    needs = (*StableDiffusion.needs, "text_encoder_2", "tokenizer_2")
    knows_crop = True

    def encode(self, pipeline: Any, prompts: list[str], length: int) -> PromptEmbeds:
        embeds, _, pooled, _ = pipeline.encode_prompt(
            prompts, device=pipeline.text_encoder_2.device, do_classifier_free_guidance=False
        )
        return PromptEmbeds(embeds, pooled=pooled)

    def uncond(self, pipeline: Any, empty: PromptEmbeds) -> PromptEmbeds:
        """Zeros, or the empty prompt, by the pipeline's `force_zeros_for_empty_prompt`."""
        if not pipeline.config.force_zeros_for_empty_prompt:
            return empty
        assert empty.pooled is not None
        return PromptEmbeds(torch.zeros_like(empty.embeds), pooled=torch.zeros_like(empty.pooled))

    def widths(self, pipeline: Any) -> tuple[int, int | None]:
        config = pipeline.unet.config
        numbers = 6 * config.addition_time_embed_dim
        return config.cross_attention_dim, config.projection_class_embeddings_input_dim - numbers

    def added_condition(self, pipeline: Any, x_t: Tensor, cond: PromptEmbeds) -> dict[str, Tensor]:
        height, width = image_size(pipeline, x_t)
        whole = x_t.new_tensor([[height, width, 0, 0, height, width]])  # original size, crop's corner, target size
        assert cond.pooled is not None
        return {
            "text_embeds": cond.pooled,
            "time_ids": (whole if cond.micro is None else cond.micro).expand(len(x_t), -1),
        }
