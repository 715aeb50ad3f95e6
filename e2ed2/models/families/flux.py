"""FLUX.1 dev, schnell and Krea (github.com/black-forest-labs/flux): rectified flow."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from e2ed2.models.families.base import Rotary, blocks
from e2ed2.models.packing import pack, places, unpack
from e2ed2.models.prompt_embeds import PromptEmbeds

SCHNELL_TOKENS = 256  # of T5 that schnell was made for, by its model card


class Flux(Rotary):
    """A transformer over T5, padding included, and CLIP's pooled vector; dev's is told the guidance scale."""

    needs = (*Rotary.needs, "text_encoder_2", "tokenizer_2")
    cost_is_told = False
    lora_targets = (
        r".*\.(to_q|to_k|to_v|to_out\.0|net\.0\.proj|net\.2|proj_mlp)|single_transformer_blocks\..*\.proj_out"
    )

    kohya_names = blocks(
        "double_blocks",
        "transformer_blocks",
        {
            "img_attn.qkv": "attn.to_q attn.to_k attn.to_v",
            "img_attn.proj": "attn.to_out.0",
            "img_mlp.0": "ff.net.0.proj",
            "img_mlp.2": "ff.net.2",
            "img_mod.lin": "norm1.linear",
            "txt_attn.qkv": "attn.add_q_proj attn.add_k_proj attn.add_v_proj",
            "txt_attn.proj": "attn.to_add_out",
            "txt_mlp.0": "ff_context.net.0.proj",
            "txt_mlp.2": "ff_context.net.2",
            "txt_mod.lin": "norm1_context.linear",
        },
    ) | blocks(
        "single_blocks",
        "single_transformer_blocks",
        {
            "linear1": "attn.to_q attn.to_k attn.to_v proj_mlp",
            "linear2": "proj_out",
            "modulation.lin": "norm.linear",
        },
    )

    def max_tokens(self, pipeline: Any, default: int) -> int:
        return default if self.embeds_guidance(pipeline) else min(default, SCHNELL_TOKENS)

    def encode(self, pipeline: Any, prompts: list[str], length: int) -> PromptEmbeds:
        device = pipeline.text_encoder.device
        embeds, pooled, _ = pipeline.encode_prompt(prompts, None, device=device, max_sequence_length=length)
        return PromptEmbeds(embeds, pooled=pooled)

    def embeds_guidance(self, pipeline: Any) -> bool:
        return pipeline.transformer.config.guidance_embeds

    def guidance(self, guidance_scale: float, *, embedded: bool) -> dict[str, Any]:
        if embedded or guidance_scale <= 1:
            return {"guidance_scale": guidance_scale}
        return {"true_cfg_scale": guidance_scale, "negative_prompt": ""}

    def own_guidance(self, pipeline: Any, call: Mapping[str, Any]) -> float:
        return call["guidance_scale" if self.embeds_guidance(pipeline) else "true_cfg_scale"]

    def predict(
        self, pipeline: Any, network: nn.Module, x_t: Tensor, sigma: Tensor, cond: PromptEmbeds, guidance_scale: float
    ) -> Tensor:
        is_told = self.embeds_guidance(pipeline)
        guidance = torch.full((len(x_t),), guidance_scale, device=x_t.device) if is_told else None
        prediction = network(
            pack(x_t),
            encoder_hidden_states=cond.embeds,
            pooled_projections=cond.pooled,
            timestep=sigma,
            guidance=guidance,
            txt_ids=x_t.new_zeros(cond.embeds.shape[1], 3),
            img_ids=places(x_t),
            return_dict=False,
        )[0]
        return unpack(prediction, x_t)
