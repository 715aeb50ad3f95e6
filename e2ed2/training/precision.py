"""`train.mixed_precision: auto`: bf16 where the machine computes in it, float32 where it would only imitate it.

On a CPU without bf16 instructions a matrix product in bf16 takes about five times as long as one in float32.
"""

from collections.abc import Mapping
from typing import Any

import torch

from e2ed2.recipe.config import Config


def resolve_precision(config: Config, recorded: Mapping[str, Any], device: torch.device) -> Config:
    """The config with `auto` replaced: by what the run was begun with, or by what `device` does best.

    Args:
        recorded: `run_folder.recorded_config`.
    """
    if config.train.mixed_precision != "auto":
        return config
    best = "bf16" if has_bf16(device) else "no"
    precision = recorded["train"]["mixed_precision"] if recorded else best
    return config.model_copy(update={"train": config.train.model_copy(update={"mixed_precision": precision})})


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False
