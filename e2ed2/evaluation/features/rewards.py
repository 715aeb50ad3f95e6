"""Preference scores that packages of their own provide: (image files, captions) -> one score each.

The packages fetch and load their own weights, pickles among them; install them only if you trust them.
"""

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from e2ed2.system.errors import UserError

PACKAGES = {  # metric -> (module, what pip calls it)
    "hpsv2": ("hpsv2", "hpsv2"),
    "hpsv3": ("hpsv3", "hpsv3"),
    "image_reward": ("ImageReward", "image-reward"),
}


def hpsv2(paths: list[Path], prompts: list[str]) -> Tensor:
    """Human Preference Score v2.1 (Wu et al. 2023, arXiv:2306.09341), [N]."""
    package = import_package("hpsv2")
    pairs = zip(paths, prompts, strict=True)
    return torch.tensor([float(package.score(str(path), prompt, hps_version="v2.1")[0]) for path, prompt in pairs])


def hpsv3(paths: list[Path], prompts: list[str], batch_size: int = 8) -> Tensor:
    """Human Preference Score v3 (Ma et al. 2025, arXiv:2508.03789), the mean of what it predicts, [N]; needs a GPU."""
    package = import_package("hpsv3")
    model, scores = package.HPSv3RewardInferencer(), []
    with torch.inference_mode():
        for start in range(0, len(paths), batch_size):
            files = [str(path) for path in paths[start : start + batch_size]]
            rewards = model.reward(prompts=prompts[start : start + batch_size], image_paths=files)
            scores += [float(reward[0]) for reward in rewards]
    return torch.tensor(scores)


def image_reward(paths: list[Path], prompts: list[str]) -> Tensor:
    """ImageReward v1.0 (Xu et al. 2023, arXiv:2304.05977), [N]."""
    package = import_package("image_reward")
    model = package.load("ImageReward-v1.0")
    with torch.inference_mode():
        return torch.tensor([float(model.score(p, str(path))) for path, p in zip(paths, prompts, strict=True)])


def import_package(metric: str) -> Any:
    """The module that a metric of `PACKAGES` needs.

    Raises:
        UserError: it, or one that it needs, is not installed.
    """
    module, distribution = PACKAGES[metric]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        remedy = f"run `pip install {distribution}`"
        raise UserError(f"metric {metric} needs the package {error.name}: {remedy}") from error
