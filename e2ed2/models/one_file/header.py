"""What lies in a one-file checkpoint, told by the names and shapes of its tensors; nothing is loaded."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from e2ed2.models.folders.parts import refusing

DAMAGED = "fetch it again"
PARTS = {  # of a whole model, and how the names of their tensors begin
    "network": ("model.diffusion_model.",),
    "autoencoder": ("first_stage_model.", "vae."),
    "text encoders": ("cond_stage_model.", "conditioner.", "text_encoders."),
}
UNET = "model.diffusion_model.input_blocks.0.0.weight"


def read_header(file: Path, what: str) -> dict[str, Tensor]:
    """Tensors of a safetensors file by name, on the meta device.

    Args:
        what: begins the message, `model 'x.safetensors'`.
    Raises:
        UserError: it is damaged.
    """
    with refusing(f"{what}: no safetensors file", DAMAGED), safe_open(file, "pt") as opened:
        names = opened.keys()
        return {name: torch.empty(opened.get_slice(name).get_shape(), device="meta") for name in names}


def is_adapter(tensors: Mapping[str, Tensor]) -> bool:
    """Whether they are a LoRA's."""
    return any(".lora_" in name or "lora_unet" in name or ".lokr_" in name for name in tensors)


def missing_parts(tensors: Mapping[str, Tensor]) -> list[str]:
    """What they lack of a whole model: network, autoencoder and text encoders."""
    return [what for what, begins in PARTS.items() if not any(name.startswith(begins) for name in tensors)]


def looks_like(tensors: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """(diffusers' name of a kind, a hub model of that kind), as diffusers guesses it; None where it cannot."""
    from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS, infer_diffusers_model_type

    try:
        kind = infer_diffusers_model_type(tensors)
    except (KeyError, IndexError):  # it expects tensors that go with others
        return None
    if kind == "v1" and UNET not in tensors:  # which is its answer to all that it does not know
        return None
    return kind, DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]["pretrained_model_name_or_path"]
