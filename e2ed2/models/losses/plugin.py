"""A term of the user's own: a function of decoded samples and their prompts, named as `package.module:function`."""

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from e2ed2.system.errors import UserError, out_of_memory, said

FIELD = "objective.plugin.function"
RETURNS = "return a loss for each image, [{n}], or one for all of them, []"


class PlugIn:
    """A function(images, prompts) -> loss, lower is better.

    `images` are samples as the autoencoder decodes them, float32 [n, 3, H, W], about [-1, 1], not clamped; `prompts`
    the n captions that they were sampled for, an empty one where it was dropped. The loss is [n] or a scalar, and has
    the gradient of the images.

    Args:
        name: `package.module:function`, of a package that is installed or of a file in the current folder.
    Raises:
        UserError: there is none.
    """

    def __init__(self, name: str) -> None:
        self._name, self._function = name, _imported(name)

    def __call__(self, samples: Tensor, prompts: Sequence[str]) -> Tensor:
        """The mean loss, a scalar.

        Args:
            samples: m of each caption, [m, B, 3, H, W]. prompts: the B captions.
        Raises:
            UserError: the function fails, or what it returns is no loss of the images.
        """
        images, n = samples.flatten(0, 1).float(), samples.shape[0] * samples.shape[1]
        try:
            with torch.autocast(images.device.type, enabled=False):
                losses = self._function(images, [*prompts] * len(samples))
        except Exception as error:
            if out_of_memory(error):
                raise
            where = traceback.extract_tb(error.__traceback__)[-1]
            problem = f"{type(error).__name__}: {said(error)}, at {Path(where.filename).name}:{where.lineno}"
            raise self._refused(f"fails on images {[*images.shape]} and {n} prompts ({problem})") from error
        if not isinstance(losses, Tensor):
            raise self._refused(f"returned a {type(losses).__name__}, no tensor; {RETURNS.format(n=n)}")
        if losses.shape not in ((n,), ()):
            raise self._refused(f"returned {[*losses.shape]} for {n} images; {RETURNS.format(n=n)}")
        return losses.float().mean()

    def try_out(self, height: int, width: int, device: torch.device, say: Callable[[str], None]) -> None:
        """Ask it about two images of random colours, and for its gradient, before a training begins.

        Raises:
            UserError: as in a training, or its result cannot be differentiated.
        """
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(2, 3, height, width, generator=generator).to(device).mul(2).sub(1)
        with torch.enable_grad():
            loss = self(images.requires_grad_()[None], ["a photo", "a drawing"])
            gradient = torch.autograd.grad(loss, images, allow_unused=True)[0] if loss.requires_grad else None
        if gradient is None:
            cuts = "torch.no_grad, detach, numpy, Pillow and comparisons cut it off"
            raise self._refused(f"is not differentiable: its result carries no gradient of the images; {cuts}")
        if not gradient.any():
            say(f"note: {FIELD}: {self._name} has a gradient of zero all over two images of random colours")

    def _refused(self, problem: str) -> UserError:
        return UserError(f"{FIELD}: {self._name} {problem}")


def _imported(name: str) -> Callable[..., Any]:
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        problem = f"cannot be imported ({type(error).__name__}: {said(error)})"
        remedy = "give package.module:function of a package that is installed, or of a file in the current folder"
        raise UserError(f"{FIELD}: {name} {problem}; {remedy}") from error
    if not callable(found):
        raise UserError(f"{FIELD}: {name} is a {type(found).__name__}, which cannot be called; give a function")
    return found
