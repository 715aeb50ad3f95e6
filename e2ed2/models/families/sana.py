"""SANA (arXiv:2410.10629), a rectified flow; SANA-Sprint (arXiv:2503.09641), a consistency model of 1 to 4 steps."""

import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from e2ed2.models.families.base import Denoise, Flow
from e2ed2.models.prompt_embeds import PromptEmbeds, concatenate
from e2ed2.models.scheduler import NUM_TRAIN_TIMESTEPS, schedule_of


class Sana(Flow):
    """A transformer over Gemma's masked tokens; its call writes an instruction before a prompt, but not an empty one.

    The empty prompt is what guidance leads away from.
    """

    autoencoder = "AutoencoderDC"
    half = "bfloat16"
    call_arguments = (*Flow.call_arguments, "use_resolution_binning", "clean_caption")
    unguided: ClassVar[dict[str, Any]] = {"do_classifier_free_guidance": False}  # of `encode_prompt`

    def prompt_length(self, pipeline: Any, prompts: list[str], max_sequence_length: int) -> int:
        """The longest prompt's, after the instruction."""
        instruction, tokenizer = _instruction(pipeline), pipeline.tokenizer
        texts = [instruction + text if (text := prompt.lower().strip()) else "" for prompt in prompts]
        lengths = [len(tokenizer(text).input_ids) for text in texts]
        before = len(tokenizer.encode(instruction)) - 2
        longest = max(length - before if text else length for text, length in zip(texts, lengths, strict=True))
        return min(longest, max_sequence_length)

    def encode(self, pipeline: Any, prompts: list[str], length: int) -> PromptEmbeds:
        asked = self.unguided | {"device": pipeline.text_encoder.device, "max_sequence_length": length}
        parts, rows = [], []
        for instruction in ([_instruction(pipeline)], None):
            those = [row for row, prompt in enumerate(prompts) if bool(prompt) == (instruction is not None)]
            if those:
                texts = [prompts[row] for row in those]
                embeds, mask, *_ = pipeline.encode_prompt(texts, **asked, complex_human_instruction=instruction)
                parts.append(PromptEmbeds(embeds, mask))
                rows += those
        together, order = concatenate(parts), torch.tensor(rows).argsort()
        assert together.mask is not None
        return PromptEmbeds(together.embeds[order], together.mask[order])

    def widths(self, pipeline: Any) -> tuple[int, int | None]:
        return pipeline.transformer.config.caption_channels, None

    def predict(
        self, pipeline: Any, network: nn.Module, x_t: Tensor, sigma: Tensor, cond: PromptEmbeds, guidance_scale: float
    ) -> Tensor:
        return network(
            x_t,
            encoder_hidden_states=cond.embeds,
            encoder_attention_mask=cond.mask,
            timestep=NUM_TRAIN_TIMESTEPS * pipeline.transformer.config.timestep_scale * sigma,
            return_dict=False,
        )[0][:, : x_t.shape[1]]


class SanaSprint(Sana):
    """SANA's network, told the guidance scale, at the flow's level of an angle of noise; its prediction is made v."""

    unguided: ClassVar[dict[str, Any]] = {}
    most_steps_of_any_grid = 2

    def embeds_guidance(self, pipeline: Any) -> bool:
        return True

    def denoiser(self, pipeline: Any, network: nn.Module, guidance_scale: float) -> Denoise:
        schedule = schedule_of(pipeline.scheduler)
        told = guidance_scale * pipeline.transformer.config.guidance_embeds_scale

        def denoise(x_t: Tensor, t: Tensor, cond: PromptEmbeds) -> Tensor:
            alpha, sigma = schedule.levels(t, x_t)
            s = sigma / (alpha + sigma)  # the flow's level with the same ratio of noise to signal
            norm = (s.square() + (1 - s).square()).sqrt()
            x = norm * x_t
            prediction = network(
                x,
                encoder_hidden_states=cond.embeds,
                encoder_attention_mask=cond.mask,
                guidance=x_t.new_full((len(x_t),), told),
                timestep=s.flatten(),
                return_dict=False,
            )[0]
            return ((1 - 2 * s) * x + (1 - 2 * s + 2 * s.square()) * prediction) / norm

        return denoise


def _instruction(pipeline: Any) -> str:
    """What the pipeline's call writes before a prompt."""
    return "\n".join(inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default)
