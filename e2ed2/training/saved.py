"""Which tensors of a training are kept; and what `torch.save` wrote, read back: nothing in it runs, and what does not
fit is one line.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from e2ed2.system.errors import UserError

IN_8_BITS, LEAST_IN_8_BITS = "__bnb_optimizer_quant_state__", 4096  # values of a parameter


def learned(module: nn.Module) -> dict[str, Tensor]:
    """What changes in the state dict, tensors that several names share under the first of them alone.

    Frozen weights, such as those below a LoRA, are the start's and come from there again.
    """
    parameters = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    once = dict([*parameters, *module.named_buffers()])
    return {name: x for name, x in module.state_dict().items() if name in once}


@contextmanager
def content_of(path: Path, what: str) -> Iterator[None]:
    """Turns whatever goes wrong meanwhile into a UserError: readers of such files raise what a stray byte asks for.

    Args:
        what: whose state the file must hold.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: not the state of {what}; use another run.dir") from error


def read_torch(path: Path) -> Any:
    """The values and tensors of a file, on the CPU."""
    return torch.load(path, weights_only=True, map_location="cpu")


def adamw_state(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> dict[str, Any]:
    """What AdamW's `load_state_dict` takes: the moments that were saved; the settings are the recipe's.

    Raises:
        ValueError, or what a value of another kind leads to: not those of these parameters.
    """
    groups = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in saved["param_groups"]] != [group["params"] for group in groups]:
        raise ValueError("of other groups of parameters")
    parameters = dict(enumerate(p for group in optimizer.param_groups for p in group["params"]))
    for number, moments in saved["state"].items():
        if IN_8_BITS in moments:
            _check_in_8_bits(parameters[number], moments, number)
            continue
        kind, step = (parameters[number].shape, parameters[number].dtype), moments["step"]
        others = {name: (tensor.shape, tensor.dtype) for name, tensor in moments.items() if name != "step"}
        if others != {"exp_avg": kind, "exp_avg_sq": kind}:
            raise ValueError(f"moments of another shape than parameter {number}")
        if step.shape != () or not step.is_floating_point() or not step >= 0:
            raise ValueError(f"{step} updates of parameter {number}")
    return {"state": saved["state"], "param_groups": groups}


def _check_in_8_bits(p: Tensor, moments: Mapping[str, Any], number: int) -> None:
    """Of bitsandbytes' AdamW8bit: from 4,096 values on bytes, a scale for 256 and the table of what they mean."""
    tensors = {name: (tensor.shape, tensor.dtype) for name, tensor in moments[IN_8_BITS].items()}
    expected = {f"state{i}": (p.shape, torch.float32) for i in (1, 2)}
    if p.numel() >= LEAST_IN_8_BITS:
        expected = {f"state{i}": (p.shape, torch.uint8) for i in (1, 2)}
        expected |= {f"qmap{i}": (torch.Size([256]), torch.float32) for i in (1, 2)}
        expected |= {f"absmax{i}": (torch.Size([-(-p.numel() // 256)]), torch.float32) for i in (1, 2)}
    if tensors != expected or type(moments["step"]) is not int or moments["step"] < 0 or len(moments) != 2:
        raise ValueError(f"moments of another shape than parameter {number}")
