"""What encodes a training set, and the fingerprint by which a cache is known to be of the same."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from e2ed2.errors import UserError
from e2ed2.models.text import text_encoders
from e2ed2.training.data_config import DataConfig


def made_with(config: DataConfig, pipeline: Any, max_sequence_length: int) -> dict[str, Any]:
    """All that latents and embeddings depend on beside the data, by field."""
    shapes = config.buckets.model_dump() if config.buckets.has_several else None
    return {
        "data.size": config.size,
        "data.buckets": shapes,
        "autoencoder": weights_sha256([pipeline.vae]),
        "text encoder precision": str(pipeline.text_encoder.dtype),  # of the recipe's train.mixed_precision
        "text encoder": weights_sha256(text_encoders(pipeline).values()),
        "max_sequence_length": max_sequence_length,
    }


def check_made_with(before: Mapping[str, Any], now: Mapping[str, Any], folder: object) -> None:
    """Raise UserError, naming the first field that differs, when a cache was made with something else."""
    for field, value in now.items():
        if before.get(field) == value:
            continue
        if field.startswith("data."):
            raise UserError(
                f"{field}: {value}, but the cache {folder} was made with {before.get(field)}; give the same, or "
                "precompute another"
            )
        raise UserError(
            f"data.path: the cache {folder} was made with another {field} than model.path's ({before.get(field)}, not "
            f"{value}); precompute one with this recipe, in another folder"
        )


def weights_sha256(networks: Iterable[nn.Module]) -> str:
    """Hash of all weights, their names and types; 16 digits."""
    digest = hashlib.sha256()
    for network in networks:
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(f"{name} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
