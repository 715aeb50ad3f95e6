"""FSDP2 by accelerate's own plugin: parameters, gradients, moments and the average in shards, one a process.

DDP needs nothing of this: there every process holds everything.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import fsdp2_prepare_model
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from e2ed2.training.cluster.tensors import begin_moments, moments
from e2ed2.training.saved import learned


def shard_model(
    accelerator: Accelerator, network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network and its AdamW in shards, with the values and moments that they have now."""
    whole = moments(network, optimizer)
    optimizer.state.clear()
    network, prepared = accelerator.prepare(network, optimizer)
    begin_moments(network, optimizer, whole)
    for name, x in moments(network, optimizer).items():
        x.copy_(_like(whole[name], x))
    return network, prepared


@contextmanager
def in_one_piece(accelerator: Accelerator) -> Iterator[None]:
    """Meanwhile models are not divided into layers, each a shard of its own, whose names the launcher gave."""
    plugin = accelerator.state.fsdp_plugin
    policy, plugin.auto_wrap_policy = plugin.auto_wrap_policy, None
    try:
        yield
    finally:
        plugin.auto_wrap_policy = policy


def shard_average(accelerator: Accelerator, average: nn.Module) -> None:
    """The average of a network in shards, in place: as the network's are, so that each process averages its own."""
    sharded = fsdp2_prepare_model(accelerator, average)
    # Its root would stay whole after a forward pass without gradient, and be no average of shards then.
    sharded.set_reshard_after_forward(True, recurse=False)


def _like(whole: Tensor, target: Tensor) -> Tensor:
    """What of a tensor that every process has belongs in the place of `target`."""
    if not isinstance(target, DTensor):
        return whole
    return distribute_tensor(whole.to(target.device), target.device_mesh, target.placements, src_data_rank=None)


class WholeAverage:
    """The average as an ordinary network, which can be previewed and saved: in the main process, on its CPU.

    Args:
        average: before it is sharded.
    """

    def __init__(self, average: nn.Module, accelerator: Accelerator):
        self._accelerator = accelerator
        self._whole = copy.deepcopy(average) if accelerator.is_main_process else None

    @contextmanager
    def of(self, average: nn.Module) -> Iterator[nn.Module]:
        """With the values that the sharded average has now. All have to call it; the others get theirs back."""
        assert isinstance(average, FSDPModule)
        average.reshard()
        whole = self._whole
        targets = {} if whole is None else learned(whole)
        with torch.no_grad():
            for name, x in learned(average).items():
                full = x.full_tensor() if isinstance(x, DTensor) else x
                if whole is not None:
                    targets[name].copy_(full)
        if whole is None:
            yield average
            return
        try:
            yield whole.to(self._accelerator.device)
        finally:
            whole.to("cpu")
