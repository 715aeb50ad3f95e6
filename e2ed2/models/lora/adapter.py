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


def merged(networks: Sequence[nn.Module], base: nn.Module) -> list[nn.Module]:
    """The networks themselves; of `lora_copies` copies of `base`, the last of them itself, with each adapter added in.

    Args:
        base: what the adapters were trained on, in the precision that the result shall have.
    """
    from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    found = []
    for network in networks:
        if not isinstance(network, PeftModel):
            found.append(network)
            continue
        own = base if network is networks[-1] else copy.deepcopy(base)
        whole = get_peft_model(own, copy.deepcopy(network.peft_config["default"]))
        set_peft_model_state_dict(whole, get_peft_model_state_dict(network))
        found.append(whole.merge_and_unload())
    return found
