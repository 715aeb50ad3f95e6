"""What has to be known of a family of pipelines; all else is the same for every model."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from e2ed2.models.prompt_embeds import PromptEmbeds

Denoise = Callable[[Tensor, Tensor, PromptEmbeds], Tensor]  # (x_t [B, C, h, w], t [B], cond) -> prediction [B, C, h, w]


class Family(ABC):
    """A kind of pipeline. Holds no model: every method is given the pipeline, a loaded diffusers one."""

    network: ClassVar[str] = "transformer"  # the component that denoises
    needs: ClassVar[tuple[str, ...]] = ("scheduler", "vae", "text_encoder", "tokenizer")  # beside the network
    call_arguments: ClassVar[tuple[str, ...]] = ()  # fields of `Inference` that only this pipeline's call takes
    knows_crop: ClassVar[bool] = False  # whether the network is told of an image's original size and crop (SDXL)
    step_callback: ClassVar[str] = "callback_on_step_end"  # the call's argument

    def prompt_length(self, pipeline: Any, prompts: list[str], max_sequence_length: int) -> int:
        """To how many tokens `prompts` are padded; only a masked text encoder can do with fewer than the most."""
        return max_sequence_length

    @abstractmethod
    def encode(self, pipeline: Any, prompts: list[str], length: int) -> PromptEmbeds:
        """Prompts as the pipeline's own call embeds them, one row each, on the text encoder's device.

        Args:
            length: of `prompt_length`.
        """

    def uncond(self, pipeline: Any, empty: PromptEmbeds) -> PromptEmbeds:
        """What the pipeline's call guides away from when it is given no negative prompt: `empty`, the empty prompt."""
        return empty

    def embeds_guidance(self, pipeline: Any) -> bool:
        """Whether the network is told the guidance scale, so that guidance costs no second evaluation."""
        return False

    @abstractmethod
    def widths(self, pipeline: Any) -> tuple[int, int | None]:
        """Of a token's embedding and of the pooled vector, as the network takes them."""

    @abstractmethod
    def denoiser(self, pipeline: Any, network: nn.Module, guidance_scale: float) -> Denoise:
        """One call of the network, as the pipeline does it, differentiable.

        Args:
            network: of the pipeline's architecture, wrapped or not. guidance_scale: for one that embeds it.
        """


def image_size(pipeline: Any, x_t: Tensor) -> tuple[int, int]:
    """(height, width) in pixels of latents x_t [B, C, h, w]."""
    return x_t.shape[-2] * pipeline.vae_scale_factor, x_t.shape[-1] * pipeline.vae_scale_factor
