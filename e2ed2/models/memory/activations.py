"""What autograd keeps of a forward pass, kept in the machine's memory until backward asks for it."""

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks

SMALL = 2**10  # values; fewer stay where they are


def offloaded_activations() -> saved_tensors_hooks:
    """A context: tensors that are saved in it go to the CPU, and come back as backward needs them. Weights stay."""
    moving = save_on_cpu(pin_memory=torch.cuda.is_available())

    def pack(x: Tensor) -> Tensor | tuple[torch.device, Tensor]:
        return x if isinstance(x, nn.Parameter) or x.numel() < SMALL else moving.pack_hook(x)

    def unpack(packed: Tensor | tuple[torch.device, Tensor]) -> Tensor:
        return packed if isinstance(packed, Tensor) else moving.unpack_hook(packed)

    return saved_tensors_hooks(pack, unpack)
