"""What has to be known of a family of pipelines; all else is the same for every model."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from e2ed2.models.prompt_embeds import PromptEmbeds


class Family(ABC):
    """A kind of pipeline. Holds no model: every method is given the pipeline, a loaded diffusers one."""

    network: ClassVar[str] = "transformer"  # the component that denoises

    def prompt_length(self, pipeline: Any, prompts: list[str], max_sequence_length: int) -> int:
        """To how many tokens `prompts` are padded; only a masked text encoder can do with fewer than the most."""
        return max_sequence_length

    @abstractmethod
    def encode(self, pipeline: Any, prompts: list[str], length: int) -> PromptEmbeds:
        """Prompts as the pipeline's own call embeds them, one row each, on the text encoder's device.

        Args:
            length: of `prompt_length`.
        """

    def encode_uncond(self, pipeline: Any, length: int) -> PromptEmbeds:
        """What the pipeline's call guides away from when it is given no negative prompt, one row."""
        return self.encode(pipeline, [""], length)
