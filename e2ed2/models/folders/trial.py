"""A loaded pipeline tried out on a few words and pixels: what does not fit together is refused before it is used."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from e2ed2.models.autoencoder import cell_side, decode, encode, latent_channels
from e2ed2.models.families import family_of, network_of
from e2ed2.models.folders.inference import Inference
from e2ed2.models.folders.parts import REMEDY, refusing
from e2ed2.models.prompt_embeds import PromptEmbeds
from e2ed2.system.errors import UserError

PROMPTS = ["", "a red cat", "Äpfel 猫 \N{CAT}"]  # what a vocabulary may lack too
NUM_TOKENS = 4  # of each, where a text encoder can do with fewer than it has: T5-XXL is slow on a CPU
NUM_CELLS = 8  # of latents, along a side


@torch.no_grad()
def try_out(pipeline: Any, inference: Inference, folder: Path) -> None:
    """Text encoders, where they are loaded, autoencoder and network.

    Raises:
        UserError: one cannot be run, or does not give what another takes.
    """
    where = f"model {folder}"
    with refusing(f"{where}: its text encoder cannot be run"):
        cond = _try_text(pipeline, inference, where)
    with refusing(f"{where}: its vae cannot be run"):
        _try_autoencoder(pipeline)
    with refusing(f"{where}: its {family_of(pipeline).network} cannot be run"):
        try_network(pipeline, network_of(pipeline), cond)


@torch.no_grad()
def try_network(pipeline: Any, network: nn.Module, cond: PromptEmbeds | None = None) -> None:
    """One evaluation of a network of the pipeline's architecture, conditioned on one row or on what it asks for.

    Raises:
        Exception: of whatever kind, where it cannot be run.
    """
    family = family_of(pipeline)
    if cond is None:
        width, pooled = family.widths(pipeline)
        mask = torch.ones(1, NUM_TOKENS, dtype=torch.long)
        cond = PromptEmbeds(torch.zeros(1, NUM_TOKENS, width), mask, None if pooled is None else torch.zeros(1, pooled))
    device, dtype = next(network.parameters()).device, next(network.parameters()).dtype
    x_t = torch.zeros(1, latent_channels(pipeline.vae), NUM_CELLS, NUM_CELLS, device=device)
    denoise = family.denoiser(pipeline, network, guidance_scale=1.0)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        made = denoise(x_t, torch.zeros(1, dtype=torch.long, device=device), cond.to(device).like(x_t))
    _check(made, x_t.shape)


def _try_text(pipeline: Any, inference: Inference, where: str) -> PromptEmbeds | None:
    """What the text encoders make of one of the prompts; all are tried."""
    if getattr(pipeline, "text_encoder", None) is None:
        return None
    for name, tokenizer in pipeline.components.items():
        encoder = pipeline.components.get(name.replace("tokenizer", "text_encoder"))
        if not name.startswith("tokenizer") or tokenizer is None or encoder is None:
            continue
        positions = getattr(encoder.config, "max_position_embeddings", None)
        of_clip = encoder.config.model_type.startswith("clip")  # always pads to the tokenizer's most
        field = "tokenizer_config.json: model_max_length" if of_clip else "inference.json: max_sequence_length"
        length = tokenizer.model_max_length if of_clip else inference.max_sequence_length
        if positions is not None and not 0 < length <= positions:
            raise UserError(f"{where}: {name}: {field}: {length}, but the encoder has {positions} positions; {REMEDY}")
        last, rows = max(tokenizer.get_vocab().values()), encoder.get_input_embeddings().num_embeddings
        if last >= rows:
            raise UserError(f"{where}: {name}: knows token {last}, but its encoder has {rows}; {REMEDY}")
    family = family_of(pipeline)
    length = family.prompt_length(pipeline, PROMPTS, min(NUM_TOKENS, inference.max_sequence_length))
    cond = family.encode(pipeline, PROMPTS, length)
    return cond.select(torch.tensor([1], device=cond.embeds.device))


def _try_autoencoder(pipeline: Any) -> None:
    vae, side = pipeline.vae, NUM_CELLS * cell_side(pipeline.vae)
    if not 0 < (scale := vae.config.get("scaling_factor", 1.0)) < float("inf"):
        raise ValueError(f"scaling_factor {scale}")
    images = torch.zeros(1, 3, side, side, device=next(vae.parameters()).device)
    latents = encode(vae, images)
    channels = family_of(pipeline).channels(network_of(pipeline).config)
    _check(latents, torch.Size([1, channels, NUM_CELLS, NUM_CELLS]))
    _check(decode(vae, latents), images.shape)


def _check(made: Tensor, shape: torch.Size) -> None:
    if made.shape != shape or not made.isfinite().all():
        raise ValueError(f"it makes {tuple(made.shape)}, finite: {bool(made.isfinite().all())}, not {tuple(shape)}")
