"""The frozen network below an adapter, made small: its blocks in 8 or 4 bits, or left in the machine's memory.

A linear layer of a block then makes its weight when it is run, and once more in backward; autograd keeps nothing of it.
What is before the blocks and after them, norms and biases stay as they are.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from e2ed2.system.errors import UserError

BLOCK = 64  # weights that have a scale of their own in nf4


class Held(ABC):
    """The weight of a layer in another form. Copies of the layer, such as the average's, share it.

    Attributes:
        size: bytes on the device of each of its values.
    """

    size: ClassVar[float]

    @abstractmethod
    def __init__(self, weight: Tensor): ...

    def __deepcopy__(self, memo: dict[int, Any]) -> "Held":
        return self

    @abstractmethod
    def weight(self, device: torch.device) -> Tensor:
        """[out, in], on the device, in the precision that it had."""


class Offloaded(Held):
    """On the CPU, in page-locked memory where there is a GPU."""

    size = 0.0

    def __init__(self, weight: Tensor):
        self._weight = weight.pin_memory() if torch.cuda.is_available() else weight

    def weight(self, device: torch.device) -> Tensor:
        return self._weight.to(device, non_blocking=True)


class Int8(Held):
    """8 bits and a scale for each row, by its largest value (LLM.int8(), arXiv:2208.07339, section 2.1)."""

    size = 1.0

    def __init__(self, weight: Tensor):
        self._functions, self._dtype = _bitsandbytes("int8").functional, weight.dtype
        self._rows, self._scales, _ = self._functions.int8_vectorwise_quant(weight.half())

    def weight(self, device: torch.device) -> Tensor:
        return self._functions.int8_vectorwise_dequant(self._rows, self._scales).to(self._dtype)


class NF4(Held):
    """4 bits, of values that a normal distribution has equally often, and a scale for 64 (QLoRA, arXiv:2305.14314)."""

    size = 0.5 + 4 / BLOCK

    def __init__(self, weight: Tensor):
        self._functions = _bitsandbytes("nf4").functional
        self._packed, self._state = self._functions.quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4")

    def weight(self, device: torch.device) -> Tensor:
        return self._functions.dequantize_4bit(self._packed, self._state)


FORMS: dict[str, type[Held]] = {"int8": Int8, "nf4": NF4, "offloaded": Offloaded}


class HeldLinear(nn.Linear):
    """A frozen linear layer whose weight is no parameter of it."""

    def __init__(self, layer: nn.Linear, held: Held):
        nn.Module.__init__(self)
        self.in_features, self.out_features, self._held = layer.in_features, layer.out_features, held
        self.register_parameter("bias", layer.bias)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """For peft, which asks where it is and of what type."""
        return self._held.weight(torch.device("cpu"))

    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(x, self._held, self.bias)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, held: Held, bias: Tensor | None) -> Tensor:
        ctx.held = held
        return linear(x, held.weight(x.device), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad @ ctx.held.weight(grad.device).to(grad.dtype), None, None


def freeze(network: nn.Module, how: str, device: torch.device) -> None:
    """Freeze a network that is not on the device yet, and hold its blocks as asked; then it can be moved there.

    Args:
        how: `whole`, or one of `FORMS`.
    Raises:
        UserError: bitsandbytes is not installed.
    """
    network.requires_grad_(False)
    if how != "whole":
        for parent, name, layer in [*linear_layers(network)]:
            weight = layer.weight.data if how == "offloaded" else layer.weight.data.to(device)
            setattr(parent, name, HeldLinear(layer, FORMS[how](weight)))


def linear_layers(network: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """(Parent, name in it, layer) of every linear layer of the blocks, which are what the network has lists of."""
    seen = set()
    for blocks in network.modules():
        if isinstance(blocks, nn.ModuleList):
            for parent in blocks.modules():
                for name, layer in parent.named_children():
                    if type(layer) is nn.Linear and id(layer) not in seen:
                        seen.add(id(layer))
                        yield parent, name, layer


def _bitsandbytes(how: str) -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        remedy = "pip install 'e2ed2[large]', or set offloaded"
        raise UserError(f"model.frozen_weights: {how} needs bitsandbytes, which is not installed: {remedy}") from error
    return bitsandbytes
