"""PixArt-alpha and -delta (arXiv:2310.00426, arXiv:2401.05252), PixArt-Sigma (arXiv:2403.04692)."""

from typing import Any

from e2ed2.models.families.base import Family
from e2ed2.models.prompt_embeds import PromptEmbeds


class PixArt(Family):
    """A transformer that attends to one masked text encoder: T5, or MiniLM in the bundled models."""

    def prompt_length(self, pipeline: Any, prompts: list[str], max_sequence_length: int) -> int:
        """The longest prompt's; padding is masked wherever it is read."""
        tokens = pipeline.tokenizer([_clean(p) for p in prompts], truncation=True, max_length=max_sequence_length)
        return max(map(len, tokens.input_ids))

    def encode(self, pipeline: Any, prompts: list[str], length: int) -> PromptEmbeds:
        embeds, mask, _, _ = pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, device=pipeline.text_encoder.device, max_sequence_length=length
        )
        return PromptEmbeds(embeds, mask)


def _clean(prompt: str) -> str:
    """What the pipeline does to a prompt with `clean_caption=False`."""
    return prompt.lower().strip()
