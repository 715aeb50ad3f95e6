"""The repeated blocks of a network, compiled by torch: one graph for all of a kind, whatever the step.

A compiled block may also choose what it keeps for its gradient: what is cheap to compute is computed again in backward.
"""

import torch
from torch import nn

from e2ed2.system.errors import said

MOST_GRAPHS = 64  # of one kind of block: widths, with gradient or without, adapters on or off
KEPT = 0.4  # the share, in bytes, that selective blocks keep of what others would


def why_not_compiled(network: nn.Module, device: torch.device) -> str | None:
    """Why its blocks cannot be compiled, as a part of one line; None where they can."""
    if not _blocks(network):
        return f"a {type(network).__name__} has no blocks that repeat"
    try:
        torch.compile(torch.nn.functional.silu)(torch.ones(2, device=device))
    except Exception as error:  # no compiler, no Triton, a card too old for it: each says it in its own way
        return said(error)
    return None


def compile_blocks(network: nn.Module, is_selective: bool) -> None:
    """Compile the blocks of a network of diffusers, with adapters in them; later copies of the network are not.

    A block is compiled when it is first run, and once more where its input first has another number of rows or tokens;
    from then on for all of them.

    Args:
        is_selective: keep `KEPT` of what the gradient needs, and compute the rest again, the cheapest first.
    """
    budget = KEPT if is_selective else 1.0
    if torch._functorch.config.activation_memory_budget != budget:
        torch._dynamo.reset()  # graphs that there are keep another share
    torch._functorch.config.activation_memory_budget = budget
    torch._dynamo.config.recompile_limit = MOST_GRAPHS
    for block in _blocks(network):
        block.compile()


def _blocks(network: nn.Module) -> set[nn.Module]:
    names = getattr(network, "_repeated_blocks", None) or getattr(network, "_no_split_modules", None) or []
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    return {block for blocks in lists for block in blocks if type(block).__name__ in names}
