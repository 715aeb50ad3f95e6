"""FLUX.2 klein (bfl.ai/blog/flux2-klein-towards-interactive-visual-intelligence): rectified flow, of few steps."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from e2ed2.models.families.base import Rotary, blocks
from e2ed2.models.prompt_embeds import PromptEmbeds


class Flux2Klein(Rotary):
    """A transformer over three layers of Qwen3, padding included, on latents of 2x2 cells in one (`KLFlux2`)."""

    autoencoder = "AutoencoderKLFlux2"
    cost_is_told = False
    lora_targets = (
        r".*\.(to_q|to_k|to_v|to_out\.0|linear_in|linear_out|to_qkv_mlp_proj)|single_transformer_blocks\..*\.to_out"
    )

    kohya_names = blocks(
        "double_blocks",
        "transformer_blocks",
        {
            "img_attn.qkv": "attn.to_q attn.to_k attn.to_v",
            "img_attn.proj": "attn.to_out.0",
            "img_mlp.0": "ff.linear_in",
            "img_mlp.2": "ff.linear_out",
            "txt_attn.qkv": "attn.add_q_proj attn.add_k_proj attn.add_v_proj",
            "txt_attn.proj": "attn.to_add_out",
            "txt_mlp.0": "ff_context.linear_in",
            "txt_mlp.2": "ff_context.linear_out",
        },
    ) | blocks(
        "single_blocks",
        "single_transformer_blocks",
        {"linear1": "attn.to_qkv_mlp_proj", "linear2": "attn.to_out"},
    )

    def cells_per_token(self, network: Any) -> int:
        return 1

    def shift(self, pipeline: Any, height: int, width: int, num_steps: int) -> float:
        """By the pipeline's own mu, of tokens and steps."""
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        step = self.sizes(pipeline).step
        return math.exp(compute_empirical_mu((height // step) * (width // step), num_steps))

    def encode(self, pipeline: Any, prompts: list[str], length: int) -> PromptEmbeds:
        embeds, _ = pipeline.encode_prompt(prompts, pipeline.text_encoder.device, max_sequence_length=length)
        return PromptEmbeds(embeds)

    def own_guidance(self, pipeline: Any, call: Mapping[str, Any]) -> float:
        return 1.0 if self.why_no_guidance(pipeline) else call["guidance_scale"]

    def why_no_guidance(self, pipeline: Any) -> str | None:
        return "the model is distilled, and its pipeline's call leaves it out" if pipeline.config.is_distilled else None

    def predict(
        self, pipeline: Any, network: nn.Module, x_t: Tensor, sigma: Tensor, cond: PromptEmbeds, guidance_scale: float
    ) -> Tensor:
        height, width = x_t.shape[-2:]
        prediction = network(
            x_t.flatten(2).mT,
            encoder_hidden_states=cond.embeds,
            timestep=sigma,
            txt_ids=_places(1, 1, cond.embeds.shape[1], x_t),
            img_ids=_places(height, width, 1, x_t),
            return_dict=False,
        )[0]
        return prediction.mT.unflatten(2, (height, width))


def _places(height: int, width: int, length: int, like: Tensor) -> Tensor:
    """(frame, row, column, word) of each token, int64 [height * width * length, 4]."""
    parts = (torch.arange(count, device=like.device) for count in (1, height, width, length))
    return torch.cartesian_prod(*parts)
