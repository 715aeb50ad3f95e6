"""Stable Diffusion 3 and 3.5 (arXiv:2403.03206): rectified flow."""

from typing import Any

from torch import Tensor, nn

from e2ed2.models.families.base import Flow, blocks
from e2ed2.models.prompt_embeds import PromptEmbeds
from e2ed2.models.scheduler import NUM_TRAIN_TIMESTEPS


class StableDiffusion3(Flow):
    """A transformer over two CLIP encoders and T5 (which a folder may lack), padding included."""

    needs = (*Flow.needs, "text_encoder_2", "tokenizer_2")

    kohya_names = blocks(
        "joint_blocks",
        "transformer_blocks",
        {
            "x_block.attn.qkv": "attn.to_q attn.to_k attn.to_v",
            "x_block.attn.proj": "attn.to_out.0",
            "x_block.attn2.qkv": "attn2.to_q attn2.to_k attn2.to_v",
            "x_block.attn2.proj": "attn2.to_out.0",
            "x_block.mlp.fc1": "ff.net.0.proj",
            "x_block.mlp.fc2": "ff.net.2",
            "context_block.attn.qkv": "attn.add_q_proj attn.add_k_proj attn.add_v_proj",
            "context_block.attn.proj": "attn.to_add_out",
            "context_block.mlp.fc1": "ff_context.net.0.proj",
            "context_block.mlp.fc2": "ff_context.net.2",
        },
    )

    def encode(self, pipeline: Any, prompts: list[str], length: int) -> PromptEmbeds:
        embeds, _, pooled, _ = pipeline.encode_prompt(
            prompts,
            None,
            None,
            device=pipeline.text_encoder.device,
            do_classifier_free_guidance=False,
            max_sequence_length=length,
        )
        return PromptEmbeds(embeds, pooled=pooled)

    def predict(
        self, pipeline: Any, network: nn.Module, x_t: Tensor, sigma: Tensor, cond: PromptEmbeds, guidance_scale: float
    ) -> Tensor:
        return network(
            x_t,
            encoder_hidden_states=cond.embeds,
            pooled_projections=cond.pooled,
            timestep=NUM_TRAIN_TIMESTEPS * sigma,
            return_dict=False,
        )[0]
