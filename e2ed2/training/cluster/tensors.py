"""Parameters and moments, whole or in shards."""

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def own(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This process's shard of each, or all of one that is whole."""
    return [x.to_local() if isinstance(x, DTensor) else x for x in tensors]


def moments(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """`NAME.exp_avg`, `NAME.exp_avg_sq` and `NAME.step` of AdamW for every parameter that it has updated."""
    return {
        f"{name}.{key}": x for name, p in network.named_parameters() for key, x in optimizer.state.get(p, {}).items()
    }


def begin_moments(network: nn.Module, optimizer: torch.optim.Optimizer, names: Collection[str]) -> None:
    """Moments of 0 for the parameters whose moments are among `names`, to be filled."""
    for name, p in network.named_parameters():
        if f"{name}.exp_avg" in names:
            zeros = {key: torch.zeros_like(p).detach() for key in ("exp_avg", "exp_avg_sq")}
            optimizer.state[p] = {"step": torch.tensor(0.0), **zeros}
