"""What a denoiser is conditioned on, whatever the architecture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class PromptEmbeds:
    """The condition of a batch of images; what an architecture does not know is None.

    Attributes:
        embeds: [B, L, D], token embeddings that the network attends to.
        mask: [B, L], 1 for tokens and 0 for padding, which stands at the end. None: all L count.
        pooled: [B, P], one vector for the whole prompt (SDXL, SD3).
        micro: [B, M], micro-conditioning of each image: SDXL's (original height, width, crop top, left, target
            height, width), PixArt's (height, width, aspect ratio). None: that of a picture of x_t's own size, not cut.
    """

    embeds: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None
    micro: Tensor | None = None

    def select(self, rows: Tensor) -> "PromptEmbeds":
        """Some rows, cut to their longest prompt: padding is masked, so that it only costs time."""
        pooled, micro = (None if x is None else x[rows] for x in (self.pooled, self.micro))
        if self.mask is None:
            return PromptEmbeds(self.embeds[rows], None, pooled, micro)
        mask = self.mask[rows]
        length = int(mask.sum(1).max())
        return PromptEmbeds(self.embeds[rows, :length], mask[:, :length], pooled, micro)

    def to(self, device: torch.device) -> "PromptEmbeds":
        return self._each(lambda x: x.to(device))

    def like(self, x: Tensor) -> "PromptEmbeds":
        """Embeddings in x's precision, as a text encoder may have another; the mask as it is."""
        return self._each(lambda value: value.to(x.dtype) if value.is_floating_point() else value)

    def repeat(self, times: int) -> "PromptEmbeds":
        """The whole batch `times` times, one copy after the other."""
        return self._each(lambda x: x.repeat(times, *[1] * (x.ndim - 1)))

    def tensors(self) -> dict[str, Tensor]:
        """Those that are not None, by name; `PromptEmbeds(**tensors)` is the same again."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def _each(self, change: Callable[[Tensor], Tensor]) -> "PromptEmbeds":
        return PromptEmbeds(**{name: change(value) for name, value in self.tensors().items()})


def concatenate(parts: Sequence[PromptEmbeds]) -> PromptEmbeds:
    """The rows of several batches of one length L."""
    return PromptEmbeds(**{name: torch.cat([part.tensors()[name] for part in parts]) for name in parts[0].tensors()})
