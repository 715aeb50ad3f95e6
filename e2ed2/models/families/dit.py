"""DiT (arXiv:2212.09748): a class of ImageNet in the place of a prompt."""

from typing import Any

import torch
from torch import Tensor, nn

from e2ed2.models.families.base import Denoise, Family, Sizes
from e2ed2.models.prompt_embeds import PromptEmbeds
from e2ed2.system.errors import UserError

NO_CLASS = 1000  # what the pipeline's call guides away from
NUM_NAMED = 3  # classes that a refusal shows


class DiT(Family):
    """A transformer that is told a class; a prompt is the name or the number of one, and the empty prompt no class.

    One that also predicts a variance (twice the channels) has it cut off. The pipeline's call takes neither a size nor
    timesteps, and noise on its way would not be of its generator.
    """

    needs = ("scheduler", "vae")
    size_arguments = ()
    prompt_argument = "class_labels=pipeline.get_label_ids([prompt])"
    most_steps_of_any_grid = 0
    takes_noise = False
    has_classes = True

    def sizes(self, pipeline: Any) -> Sizes:
        """The one that it is made for."""
        side = super().sizes(pipeline).side
        return Sizes(side, side, side, side, side, side)

    def encode(self, pipeline: Any, prompts: list[str], length: int) -> PromptEmbeds:
        """The class's number, int64 [B, 1, 1]."""
        classes = torch.tensor(self.call_prompts(pipeline, prompts)["class_labels"])
        return PromptEmbeds(classes[:, None, None])

    def call_prompts(self, pipeline: Any, prompts: list[str]) -> dict[str, Any]:
        """Their numbers; two of ImageNet's classes have one name, crane, so that a number may be given too."""
        classes = {"": NO_CLASS} | {str(number): number for number in range(NO_CLASS)} | pipeline.labels
        for prompt in prompts:
            if prompt not in classes:
                named = ", ".join([*pipeline.labels][:NUM_NAMED])
                known = f"give one of its {len(pipeline.labels)} classes, such as {named}, or its number"
                raise UserError(f"caption {prompt[:80]!r}: no class of this DiTPipeline; {known}")
        return {"class_labels": [classes[prompt] for prompt in prompts]}

    def saved_config(self, pipeline: Any) -> dict[str, Any]:
        names: dict[int, list[str]] = {}
        for name, number in pipeline.labels.items():
            names.setdefault(number, []).append(name)
        return {"id2label": {str(number): ", ".join(names[number]) for number in sorted(names)}}

    def widths(self, pipeline: Any) -> tuple[int, int | None]:
        return 1, None

    def denoiser(self, pipeline: Any, network: nn.Module, guidance_scale: float) -> Denoise:
        from diffusers.models.embeddings import LabelEmbedding

        for module in network.modules():
            if isinstance(module, LabelEmbedding):
                module.dropout_prob = 0.0  # classes are dropped with the captions of the data, not within a chain

        def denoise(x_t: Tensor, t: Tensor, cond: PromptEmbeds) -> Tensor:
            classes = cond.embeds[:, 0, 0].long()
            return network(x_t, timestep=t, class_labels=classes, return_dict=False)[0][:, : x_t.shape[1]]

        return denoise
