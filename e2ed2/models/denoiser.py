"""One interface over diffusers backbones: (x_t, t [B], cond) -> prediction, whatever the architecture."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from e2ed2.models.families import family_of
from e2ed2.models.families.base import Denoise, Guide, classifier_free
from e2ed2.models.prompt_embeds import PromptEmbeds, concatenate

SHORT = 1024  # latent cells: 256 tokens of 2x2


def denoiser_of(
    pipeline: Any, network: nn.Module, guidance_scale: float = 1.0, uncond: PromptEmbeds | None = None
) -> Denoise:
    """A network of the pipeline's architecture as a denoiser, guided where the scale is above 1.

    Args:
        network: the pipeline's own, or a copy, wrapped or not.
        guidance_scale: told to a network that embeds it; elsewhere classifier-free guidance, away from `uncond`.
        uncond: of `text.encode_uncond`, one row; only classifier-free guidance needs it.
    """
    family = family_of(pipeline)
    predict = family.denoiser(pipeline, network, guidance_scale)

    def denoise(x_t: Tensor, t: Tensor, cond: PromptEmbeds) -> Tensor:
        with _attention_kernel(x_t, network):
            return predict(x_t, t, cond.like(x_t))

    if guidance_scale <= 1 or family.embeds_guidance(pipeline):
        return denoise
    assert uncond is not None
    return guided(denoise, guidance_scale, uncond, family.guide)


def _attention_kernel(x_t: Tensor, network: nn.Module) -> AbstractContextManager[None]:
    """The plain formula where the fused kernel is slow: its bf16 backward on the CPU, below some 256 tokens."""
    if x_t.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or not torch.is_grad_enabled():
        return nullcontext()
    if getattr(network, "is_gradient_checkpointing", False):  # its blocks run again in backward, outside of this
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH) if x_t[0, 0].numel() < SHORT else nullcontext()


def guided(
    denoise: Denoise, guidance_scale: float, uncond: PromptEmbeds, guide: Guide = classifier_free
) -> Denoise:
    """Classifier-free guidance (arXiv:2207.12598) as a denoiser, two evaluations.

    Args:
        guidance_scale: 1 or less means none and costs one evaluation.
        uncond: one row, for every image. guide: `Family.guide`.
    """
    if guidance_scale <= 1:
        return denoise

    def denoise_guided(x_t: Tensor, t: Tensor, cond: PromptEmbeds) -> Tensor:
        rows = torch.zeros(len(x_t), dtype=torch.long, device=x_t.device)
        none = replace(uncond.select(rows), micro=cond.micro)
        if none.embeds.shape == cond.embeds.shape:  # one batch of both, which is quicker where it is small
            without, told = denoise(torch.cat([x_t, x_t]), torch.cat([t, t]), concatenate([none, cond])).chunk(2)
        else:
            without, told = denoise(x_t, t, none), denoise(x_t, t, cond)
        return guide(told, without, guidance_scale)

    return denoise_guided
