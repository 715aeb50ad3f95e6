"""Chroma (hf.co/lodestones/Chroma1-HD): FLUX.1 schnell without CLIP, guided by two evaluations."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from e2ed2.models.families.base import Rotary
from e2ed2.models.families.flux import Flux
from e2ed2.models.packing import pack, places, unpack
from e2ed2.models.prompt_embeds import PromptEmbeds


class Chroma(Rotary):
    """A transformer over T5 at full length.

    Its pipeline in diffusers 0.42 adds the tokens' mask to the attention's logits, so that padding has a weight, which
    goes by how much of it there is. We do the same: the mask is in the place of the pooled vector, and nothing is cut.
    """

    recomputes_blocks: ClassVar[bool] = False  # diffusers 0.42 leaves the mask out of single blocks that are recomputed
    lora_targets = Flux.lora_targets
    kohya_names = Flux.kohya_names

    def encode(self, pipeline: Any, prompts: list[str], length: int) -> PromptEmbeds:
        embeds, _, mask, *_ = pipeline.encode_prompt(
            prompts,
            device=pipeline.text_encoder.device,
            do_classifier_free_guidance=False,
            max_sequence_length=length,
        )
        return PromptEmbeds(embeds, pooled=mask)

    def predict(
        self, pipeline: Any, network: nn.Module, x_t: Tensor, sigma: Tensor, cond: PromptEmbeds, guidance_scale: float
    ) -> Tensor:
        tokens = pack(x_t)
        text = x_t.new_ones(cond.embeds.shape[:2]) if cond.pooled is None else cond.pooled
        prediction = network(
            tokens,
            encoder_hidden_states=cond.embeds,
            timestep=sigma,
            txt_ids=x_t.new_zeros(cond.embeds.shape[1], 3),
            img_ids=places(x_t),
            attention_mask=torch.cat([text, x_t.new_ones(tokens.shape[:2])], dim=1),
            return_dict=False,
        )[0]
        return unpack(prediction, x_t)
