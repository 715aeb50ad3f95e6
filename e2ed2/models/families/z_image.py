"""Z-Image and Z-Image-Turbo (arXiv:2511.22699): rectified flow."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from e2ed2.models.families.base import Rotary, blocks
from e2ed2.models.prompt_embeds import PromptEmbeds


class ZImage(Rotary):
    """A transformer over Qwen3's tokens without padding; it takes 1 - sigma for time, and predicts x0 - noise."""

    cost_is_told = False
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "w1", "w2", "w3")

    kohya_names = {
        original: parts
        for part in ("layers", "noise_refiner", "context_refiner")
        for original, parts in blocks(
            part,
            part,
            {
                "attention.qkv": "attention.to_q attention.to_k attention.to_v",
                "attention.out": "attention.to_out.0",
                **{f"feed_forward.{name}": f"feed_forward.{name}" for name in ("w1", "w2", "w3")},
            },
        ).items()
    }

    def cells_per_token(self, network: Any) -> int:
        return network.all_patch_size[0]

    def channels(self, network: Any) -> int:
        return network.in_channels

    def prompt_length(self, pipeline: Any, prompts: list[str], max_sequence_length: int) -> int:
        """The longest prompt's, in the chat's template."""
        texts = [
            pipeline.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=True
            )
            for prompt in prompts
        ]
        return max(map(len, pipeline.tokenizer(texts, truncation=True, max_length=max_sequence_length).input_ids))

    def encode(self, pipeline: Any, prompts: list[str], length: int) -> PromptEmbeds:
        """The call writes the template into the list it is given, hence a copy."""
        device = pipeline.text_encoder.device
        rows, _ = pipeline.encode_prompt([*prompts], device, False, max_sequence_length=length)
        mask = torch.stack([torch.arange(length, device=device) < len(row) for row in rows]).long()
        return PromptEmbeds(torch.stack([pad(row, (0, 0, 0, length - len(row))) for row in rows]), mask)

    def guidance(self, guidance_scale: float, *, embedded: bool) -> dict[str, Any]:
        """The call's scale is of what is added to the prediction with the prompt: 0 is none."""
        return {"guidance_scale": max(0.0, guidance_scale - 1)}

    def own_guidance(self, pipeline: Any, call: Mapping[str, Any]) -> float:
        return 1 + call["guidance_scale"]

    def widths(self, pipeline: Any) -> tuple[int, int | None]:
        return pipeline.transformer.config.cap_feat_dim, None

    def predict(
        self, pipeline: Any, network: nn.Module, x_t: Tensor, sigma: Tensor, cond: PromptEmbeds, guidance_scale: float
    ) -> Tensor:
        texts = [*cond.embeds]
        if cond.mask is not None:
            texts = [text[: int(mask.sum())] for text, mask in zip(texts, cond.mask, strict=True)]
        predictions = network([*x_t[:, :, None]], 1 - sigma, texts, return_dict=False)[0]
        return -torch.stack([*predictions])[:, :, 0]
