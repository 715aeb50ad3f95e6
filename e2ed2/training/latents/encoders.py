"""What encodes a training set, and the fingerprint by which a cache is known to be of the same."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from e2ed2.models.folders.pipeline import text_files
from e2ed2.models.text import text_encoders
from e2ed2.recipe.config import Config
from e2ed2.system.errors import UserError
from e2ed2.system.files import file_sha256
from e2ed2.training.stages.start import half_of, keeps_text, start_folder


def made_with(config: Config, pipeline: Any, max_sequence_length: int) -> dict[str, Any]:
    """All that latents and embeddings depend on beside the data, by field; text encoders need not be loaded."""
    buckets = config.data.buckets
    return {
        "data.size": config.data.size,
        "data.buckets": buckets.model_dump() if buckets.has_several else None,
        "autoencoder": weights_sha256([pipeline.vae]),
        "text encoder precision": str(half_of(config) or torch.float32),
        "text encoder": _text_sha256(config, pipeline),
        "max_sequence_length": max_sequence_length,
    }


def _text_sha256(config: Config, pipeline: Any) -> str:
    """Of the files of the start's text encoders, or of their weights where they are not what the files hold."""
    if not keeps_text(config):
        return weights_sha256(text_encoders(pipeline).values())
    files = [path for path in text_files(start_folder(config), config.model.variant) if path.suffix != ".json"]
    hashes = [f"{path.parent.name} {file_sha256(path)}" for path in files]
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:16]


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
