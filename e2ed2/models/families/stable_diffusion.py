"""Stable Diffusion 1 and 2 (arXiv:2112.10752), and what was distilled from them (LCM: arXiv:2310.04378)."""

from typing import Any

import torch
from torch import Tensor, nn

from e2ed2.models.families.base import OUR_NAMES, Denoise, Family
from e2ed2.models.prompt_embeds import PromptEmbeds


class StableDiffusion(Family):
    """A UNet that attends to CLIP's 77 tokens, padding included; an LCM's is told the guidance scale."""

    network = "unet"
    kohya_names = OUR_NAMES

    def encode(self, pipeline: Any, prompts: list[str], length: int) -> PromptEmbeds:
        embeds, _ = pipeline.encode_prompt(prompts, pipeline.text_encoder.device, 1, False)
        return PromptEmbeds(embeds)

    def cells_per_token(self, network: Any) -> int:
        return 2 ** (len(network.block_out_channels) - 1)

    def embeds_guidance(self, pipeline: Any) -> bool:
        return pipeline.unet.config.time_cond_proj_dim is not None

    def widths(self, pipeline: Any) -> tuple[int, int | None]:
        return pipeline.unet.config.cross_attention_dim, None

    def denoiser(self, pipeline: Any, network: nn.Module, guidance_scale: float) -> Denoise:
        embedding = None
        if self.embeds_guidance(pipeline):
            scale = torch.tensor([guidance_scale - 1])  # as diffusers' pipelines count it
            embedding = pipeline.get_guidance_scale_embedding(scale, pipeline.unet.config.time_cond_proj_dim)

        def denoise(x_t: Tensor, t: Tensor, cond: PromptEmbeds) -> Tensor:
            return network(
                x_t,
                t,
                encoder_hidden_states=cond.embeds,
                timestep_cond=None if embedding is None else embedding.to(x_t).expand(len(x_t), -1),
                added_cond_kwargs=self.added_condition(pipeline, x_t, cond),
                return_dict=False,
            )[0]

        return denoise

    def added_condition(self, pipeline: Any, x_t: Tensor, cond: PromptEmbeds) -> dict[str, Tensor] | None:
        """What the UNet takes beside tokens and time."""
        return None
