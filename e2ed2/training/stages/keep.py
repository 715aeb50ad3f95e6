"""The term that keeps a model near its start: what it made of prompts outside the data, it goes on making.

On such prompts the sampler that is trained and the frozen start begin at the same noise; the term is the mean squared
distance of their latents. Nothing is decoded. Of a LoRA the start is the same network without the adapter.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from e2ed2.data.captions import read_captions
from e2ed2.models.few_step_network import FewStepNetwork
from e2ed2.models.folders.index import read_index
from e2ed2.models.prompt_embeds import PromptEmbeds
from e2ed2.recipe.config import Config
from e2ed2.system.errors import UserError
from e2ed2.training.stages.start import start_folder
from e2ed2.trajectory import draw_noises

SHIPPED = {name: Path(__file__).parents[1] / "assets" / f"{name}_prompts.txt" for name in ("general", "emoji")}
CLASSES = "classes"  # of the start
MEASURED_EVERY = 5


def kept_prompts(config: Config) -> tuple[list[str], list[str]]:
    """(Prompts that the term samples, every fifth of the list, which it leaves for measuring), each once.

    Raises:
        UserError: `objective.keep.prompts` cannot be read.
    """
    asked = config.objective.keep.prompts
    if asked == CLASSES:
        captions = [*read_index(start_folder(config)).classes]
    else:
        captions = read_captions(SHIPPED.get(asked, Path(asked)), "objective.keep.prompts")
    prompts = list(dict.fromkeys(captions))
    if not prompts:
        raise UserError(f"objective.keep.prompts: {CLASSES}, but {config.model.path} has none; set general")
    left = prompts[MEASURED_EVERY - 1 :: MEASURED_EVERY]
    del prompts[MEASURED_EVERY - 1 :: MEASURED_EVERY]
    return prompts, left


class Keep:
    """Prompts, and the start that answers them.

    Args:
        network: the sampler, before its first update. prompts: embedded, one row each.
        batch_size: prompts that each call draws.
    """

    def __init__(self, network: FewStepNetwork, prompts: PromptEmbeds, batch_size: int, has_adapter: bool):
        self._prompts, self._batch_size, self._has_adapter = prompts, batch_size, has_adapter
        shared = {id(part): part for part in network.transformers} if has_adapter else {}
        self._start = copy.deepcopy(network, shared)  # a grid may be learned, whatever the transformers
        if not has_adapter:
            self._start.eval().requires_grad_(False)

    def __call__(
        self, network: nn.Module, like: Tensor, num_steps: int, generator: torch.Generator, **options: Any
    ) -> Tensor:
        """The term, scalar.

        Args:
            network: the sampler, wrapped or not. like: latents [B, C, h, w] of the size to sample.
            options: of the chain, such as `gradient_checkpointing`.
        """
        rows = torch.randint(len(self._prompts.embeds), (self._batch_size,), generator=generator)
        cond = self._prompts.select(rows).to(like.device)
        noises = draw_noises((self._batch_size, *like.shape[1:]), num_steps, generator).to(like)
        with torch.no_grad(), self._as_it_was(network) as start:
            kept = start(noises, cond, num_steps=num_steps, timesteps=self._start.timesteps(num_steps, like.device))
        samples = network(noises, cond, num_steps=num_steps, **options)
        return (samples.float() - kept.float()).square().mean()

    @contextmanager
    def _as_it_was(self, network: nn.Module) -> Iterator[nn.Module]:
        """The start. Of an adapter the network without it: peft's own context would freeze what FSDP has in shards."""
        layers: list[Any] = []
        if self._has_adapter:
            layers = [layer for layer in self._start.modules() if isinstance(layer, _tuner_layer())]
        for layer in layers:
            layer._disable_adapters = True
        try:  # of one in shards nothing but the whole can be run
            yield network if self._has_adapter else self._start
        finally:
            for layer in layers:
                layer._disable_adapters = False


def _tuner_layer() -> type:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return BaseTunerLayer
