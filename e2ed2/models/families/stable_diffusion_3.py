"""Stable Diffusion 3 and 3.5 (arXiv:2403.03206): rectified flow."""

from typing import Any

from torch import Tensor, nn

from e2ed2.models.families.base import Denoise, Family
from e2ed2.models.prompt_embeds import PromptEmbeds
from e2ed2.models.scheduler import schedule_of


class StableDiffusion3(Family):
    """A transformer over two CLIP encoders and T5 (which a folder may lack), padding included."""

    needs = (*Family.needs, "text_encoder_2", "tokenizer_2")
    call_arguments = ("max_sequence_length",)

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

    def widths(self, pipeline: Any) -> tuple[int, int | None]:
        return pipeline.transformer.config.joint_attention_dim, pipeline.transformer.config.pooled_projection_dim

    def denoiser(self, pipeline: Any, network: nn.Module, guidance_scale: float) -> Denoise:
        schedule = schedule_of(pipeline.scheduler)

        def denoise(x_t: Tensor, t: Tensor, cond: PromptEmbeds) -> Tensor:
            _, sigma = schedule.levels(t, x_t)
            return network(
                x_t,
                encoder_hidden_states=cond.embeds,
                pooled_projections=cond.pooled,
                timestep=schedule.num_train_timesteps * sigma.flatten(),
                return_dict=False,
            )[0]

        return denoise
