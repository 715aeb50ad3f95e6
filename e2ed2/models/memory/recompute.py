"""Blocks of a network that run again in backward: whole, or all but their matrix products and attention."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Recomputed = Literal[False, True, "selective"]
aten = torch.ops.aten
ATTENTION = {
    aten._scaled_dot_product_flash_attention_for_cpu.default, aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default, aten._scaled_dot_product_cudnn_attention.default,
}  # fmt: skip
PRODUCTS = {aten.mm.default: 0, aten.addmm.default: 1}  # where their factors begin


def recompute_blocks(network: nn.Module, how: Recomputed) -> None:
    """Have a network of diffusers run its blocks again in backward, with the same gradient.

    Args:
        how: True keeps a block's inputs alone. `selective` also keeps what takes long to make and little to hold:
            attention, convolutions, and matrix products whose rows are no longer than those that they are made of.
    """
    if how:
        network.enable_gradient_checkpointing(_selectively if how == "selective" else None)  # type: ignore[operator]


def _selectively(block: nn.Module, *args: Any) -> Any:
    kind = next(x.device.type for x in args if isinstance(x, Tensor))

    def run(*args: Any) -> Any:  # without autocast's cache of weights, which backward would not find as it was
        is_on, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        with torch.autocast(kind, dtype, is_on, cache_enabled=False):
            return block(*args)

    contexts = partial(create_selective_checkpoint_contexts, _policy)
    return checkpoint(run, *args, use_reentrant=False, context_fn=contexts)


def _policy(context: Any, op: Any, *args: Any, **options: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if is_kept(op, args) else CheckpointPolicy.PREFER_RECOMPUTE


def is_kept(op: Any, args: Sequence[Any]) -> bool:
    """Whether `selective` keeps what an operation makes."""
    if op in PRODUCTS:
        rows, weight = _factors(op, args)
        return weight.shape[1] <= rows.shape[1]
    return op in ATTENTION or op is aten.convolution.default


def _factors(op: Any, args: Sequence[Any]) -> tuple[Tensor, Tensor]:
    rows, weight = args[PRODUCTS[op] : PRODUCTS[op] + 2]
    return rows, weight


class Kept(TorchDispatchMode):
    """Counts what `selective` keeps of what runs under it.

    Attributes:
        num_bytes: of what is kept. flops: of the matrix products that are not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = self.flops = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = op(*args, **(kwargs or {}))
        if is_kept(op, args):
            tensors = [x for x in tree_leaves(made) if isinstance(x, Tensor)]
            self.num_bytes += sum(x.numel() * x.element_size() for x in tensors)
        elif op in PRODUCTS:
            rows, weight = _factors(op, args)
            self.flops += 2 * rows.numel() * weight.shape[1]
        return made

    def run(self, block: nn.Module, *args: Any) -> Any:
        """A block, recomputed selectively; for `enable_gradient_checkpointing`."""
        with self:
            return _selectively(block, *args)
