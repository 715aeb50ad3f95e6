"""Low-rank adapters on a frozen network, and the network that they make of it."""

import copy
from collections.abc import Sequence

from torch import nn

from e2ed2.models.families.base import LORA_TARGETS
from e2ed2.system.errors import UserError, said


def lora_copies(
    network: nn.Module, num_steps: int, rank: int, targets: Sequence[str] = LORA_TARGETS
) -> list[nn.Module]:
    """A low-rank adapter for each step on one network, which is frozen and whose memory they share.

    Args:
        targets: ends of the names of the layers that have one; or a pattern of whole names.
    Raises:
        UserError: no layer has such a name, or one that has takes no adapter.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets if isinstance(targets, str) else list(targets))
    frozen = network.requires_grad_(False)
    same = {id(p): p for p in (*frozen.parameters(), *frozen.buffers())}
    try:
        return [get_peft_model(copy.deepcopy(frozen, dict(same)), config) for _ in range(num_steps)]
    except ValueError as error:
        raise UserError(f"trajectory.lora_targets: {said(error)}; the default is {[*LORA_TARGETS]}") from error


def merged(network: nn.Module, base: nn.Module) -> nn.Module:
    """The network itself; one of `lora_copies` as a copy of `base` with the adapter added in.

    Args:
        base: what the adapter was trained on, in the precision that the result shall have.
    """
    from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    if not isinstance(network, PeftModel):
        return network
    whole = get_peft_model(copy.deepcopy(base), copy.deepcopy(network.peft_config["default"]))
    set_peft_model_state_dict(whole, get_peft_model_state_dict(network))
    return whole.merge_and_unload()
