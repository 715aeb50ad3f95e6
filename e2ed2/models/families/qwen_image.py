"""Qwen-Image (arXiv:2508.02324): rectified flow."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad

from e2ed2.models.families.base import OUR_NAMES, Rotary, classifier_free
from e2ed2.models.packing import pack, unpack
from e2ed2.models.prompt_embeds import PromptEmbeds


class QwenImage(Rotary):
    """A transformer over Qwen2.5-VL's masked tokens; guided, each token keeps the length that it has unguided."""

    autoencoder = "AutoencoderKLQwenImage"
    cost_is_told = False
    lora_targets = (*Rotary.lora_targets, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")

    kohya_names = OUR_NAMES

    def prompt_length(self, pipeline: Any, prompts: list[str], max_sequence_length: int) -> int:
        """The longest prompt's, in the template, whose beginning is cut off."""
        texts = [pipeline.prompt_template_encode.format(prompt) for prompt in prompts]
        longest = max(map(len, pipeline.tokenizer(texts).input_ids)) - pipeline.prompt_template_encode_start_idx
        return min(longest, max_sequence_length)

    def encode(self, pipeline: Any, prompts: list[str], length: int) -> PromptEmbeds:
        device = pipeline.text_encoder.device
        embeds, mask = pipeline.encode_prompt(prompts, device, max_sequence_length=length)
        mask = embeds.new_ones(embeds.shape[:2]) if mask is None else mask
        missing = length - embeds.shape[1]
        return PromptEmbeds(pad(embeds, (0, 0, 0, missing)), pad(mask.long(), (0, missing)))

    def guide(self, cond: Tensor, uncond: Tensor, guidance_scale: float) -> Tensor:
        guided, unguided = pack(classifier_free(cond, uncond, guidance_scale)), pack(cond)
        return unpack(guided * (unguided.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)), cond)

    def guidance(self, guidance_scale: float, *, embedded: bool) -> dict[str, Any]:
        return {"true_cfg_scale": guidance_scale} | ({"negative_prompt": ""} if guidance_scale > 1 else {})

    def own_guidance(self, pipeline: Any, call: Mapping[str, Any]) -> float:
        return call["true_cfg_scale"]

    def predict(
        self, pipeline: Any, network: nn.Module, x_t: Tensor, sigma: Tensor, cond: PromptEmbeds, guidance_scale: float
    ) -> Tensor:
        height, width = (cells // 2 for cells in x_t.shape[-2:])
        has_padding = cond.mask is not None and not cond.mask.all()
        prediction = network(
            pack(x_t),
            encoder_hidden_states=cond.embeds,
            encoder_hidden_states_mask=cond.mask if has_padding else None,
            timestep=sigma,
            img_shapes=[[(1, height, width)]] * len(x_t),
            return_dict=False,
        )[0]
        return unpack(prediction, x_t)
