"""One interface over diffusers backbones: (x_t, t [B], cond) -> prediction, whatever the architecture."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from e2ed2.models.prompt_embeds import PromptEmbeds

Denoise = Callable[[Tensor, Tensor, PromptEmbeds], Tensor]

SHORT = 1024  # latent cells: 256 tokens of 2x2


def pixart_denoiser(transformer: nn.Module) -> Denoise:
    """A `PixArtTransformer2DModel` without micro-conditioning as a denoiser.

    A transformer that also predicts a variance (twice the channels) has it cut off, as the pipeline does.
    """

    def denoise(x_t: Tensor, t: Tensor, cond: PromptEmbeds) -> Tensor:
        with _attention_kernel(x_t):
            prediction = transformer(
                x_t,
                encoder_hidden_states=cond.embeds,
                encoder_attention_mask=cond.mask,
                timestep=t,
                added_cond_kwargs={"resolution": None, "aspect_ratio": None},
                return_dict=False,
            )[0]
        return prediction[:, : x_t.shape[1]]

    return denoise


def _attention_kernel(x_t: Tensor) -> AbstractContextManager[None]:
    """The plain formula where the fused kernel is slow: its bf16 backward on the CPU, below some 256 tokens."""
    if x_t.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or not torch.is_grad_enabled():
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH) if x_t[0, 0].numel() < SHORT else nullcontext()


def guided(denoise: Denoise, guidance_scale: float, uncond: PromptEmbeds) -> Denoise:
    """Classifier-free guidance (arXiv:2207.12598) as a denoiser: uncond + scale (cond - uncond), two evaluations.

    Args:
        guidance_scale: 1 or less means none and costs one evaluation.
        uncond: the empty prompt, one row.
    """
    if guidance_scale <= 1:
        return denoise

    def denoise_guided(x_t: Tensor, t: Tensor, cond: PromptEmbeds) -> Tensor:
        rows = torch.zeros(len(x_t), dtype=torch.long, device=x_t.device)
        without = denoise(x_t, t, uncond.select(rows))
        return without + guidance_scale * (denoise(x_t, t, cond) - without)

    return denoise_guided
