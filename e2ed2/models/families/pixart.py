"""PixArt-alpha and -delta (arXiv:2310.00426, arXiv:2401.05252), PixArt-Sigma (arXiv:2403.04692)."""

from typing import Any

from torch import Tensor, nn

from e2ed2.models.families.base import Denoise, Family, blocks, image_size
from e2ed2.models.prompt_embeds import PromptEmbeds


class PixArt(Family):
    """A transformer that attends to one masked text encoder: T5, or MiniLM in the bundled models.

    One that also predicts a variance (twice the channels) has it cut off. PixArt-alpha at 1024 px is told the size and
    the aspect ratio of the picture.
    """

    call_arguments = ("max_sequence_length", "use_resolution_binning", "clean_caption")
    step_callback = "callback"

    kohya_names = blocks(
        "blocks",
        "transformer_blocks",
        {
            "attn.qkv": "attn1.to_q attn1.to_k attn1.to_v",
            "attn.proj": "attn1.to_out.0",
            "cross_attn.q_linear": "attn2.to_q",
            "cross_attn.kv_linear": "attn2.to_k attn2.to_v",
            "cross_attn.proj": "attn2.to_out.0",
            "mlp.fc1": "ff.net.0.proj",
            "mlp.fc2": "ff.net.2",
        },
    )

    def prompt_length(self, pipeline: Any, prompts: list[str], max_sequence_length: int) -> int:
        """The longest prompt's; padding is masked wherever it is read."""
        tokens = pipeline.tokenizer([_clean(p) for p in prompts], truncation=True, max_length=max_sequence_length)
        return max(map(len, tokens.input_ids))

    def encode(self, pipeline: Any, prompts: list[str], length: int) -> PromptEmbeds:
        embeds, mask, _, _ = pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, device=pipeline.text_encoder.device, max_sequence_length=length
        )
        return PromptEmbeds(embeds, mask)

    def widths(self, pipeline: Any) -> tuple[int, int | None]:
        return pipeline.transformer.config.caption_channels, None

    def denoiser(self, pipeline: Any, network: nn.Module, guidance_scale: float) -> Denoise:
        # the pipelines' own rule: alpha's goes by the size, Sigma's never conditions
        told_size = type(pipeline).__name__ == "PixArtAlphaPipeline" and pipeline.transformer.config.sample_size == 128

        def denoise(x_t: Tensor, t: Tensor, cond: PromptEmbeds) -> Tensor:
            resolution = aspect_ratio = None
            if told_size:
                height, width = image_size(pipeline, x_t)
                micro = x_t.new_tensor([[height, width, height / width]]) if cond.micro is None else cond.micro
                resolution, aspect_ratio = micro.expand(len(x_t), -1).split([2, 1], dim=1)
            prediction = network(
                x_t,
                encoder_hidden_states=cond.embeds,
                encoder_attention_mask=cond.mask,
                timestep=t,
                added_cond_kwargs={"resolution": resolution, "aspect_ratio": aspect_ratio},
                return_dict=False,
            )[0]
            return prediction[:, : x_t.shape[1]]

        return denoise


def _clean(prompt: str) -> str:
    """What the pipeline does to a prompt with `clean_caption=False`."""
    return prompt.lower().strip()
