"""Low-rank adapters (arXiv:2106.09685): fused into a start, trained on a frozen network, exported on their own."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from e2ed2.models.families import family_of
from e2ed2.models.folders.hub import is_hub_id, weights_file
from e2ed2.system.errors import UserError, first_line

if TYPE_CHECKING:
    from peft import PeftModel

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"]  # attention and feed-forward of a block


def lora_copies(
    network: nn.Module, num_steps: int, rank: int, targets: Sequence[str] | None = None
) -> list[nn.Module]:
    """A low-rank adapter for each step on one network, which is frozen and whose memory they share.

    Args:
        targets: ends of the names of the layers that have one; None: `TARGETS`.
    Raises:
        UserError: no layer has such a name, or one that has takes no adapter.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets or TARGETS))
    frozen = network.requires_grad_(False)
    same = {id(p): p for p in (*frozen.parameters(), *frozen.buffers())}
    try:
        return [get_peft_model(copy.deepcopy(frozen, dict(same)), config) for _ in range(num_steps)]
    except ValueError as error:
        raise UserError(f"trajectory.lora_targets: {first_line(error)}; the default is {TARGETS}") from error


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


def save_adapter(network: nn.Module, pipeline: Any, folder: Path) -> None:
    """Write the adapter of one of `lora_copies` to `folder`; of another network nothing.

    As `pytorch_lora_weights.safetensors`, which `pipeline.load_lora_weights` takes, or for a pipeline without that
    method (PixArt's) as a peft folder, `PeftModel.from_pretrained(pipeline.transformer, "lora")`.
    """
    from peft import PeftModel, get_peft_model_state_dict

    if not isinstance(network, PeftModel):
        return
    if not hasattr(pipeline, "save_lora_weights"):
        _save_peft(network, folder)
        return
    layers = {name.removeprefix("base_model.model."): x for name, x in get_peft_model_state_dict(network).items()}
    pipeline.save_lora_weights(folder, **{f"{family_of(pipeline).network}_lora_layers": layers})


def _save_peft(network: "PeftModel", folder: Path) -> None:
    network.peft_config["default"].base_model_name_or_path = None  # where on this machine it was
    network.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # a form to be filled in


def fuse(pipeline: Any, adapters: Sequence[str]) -> None:
    """Add adapters, such as LCM-LoRA, into the pipeline's weights, in place.

    Args:
        adapters: safetensors files (also `org/name/file` of the hub), folders of one, or hub ids; of a pipeline without
            `load_lora_weights` (PixArt's) peft folders.
    Raises:
        UserError: one does not exist or does not fit.
    """
    for adapter in adapters:
        path = weights_file(adapter) if adapter.endswith(".safetensors") else Path(adapter)
        if not path.exists() and not is_hub_id(adapter):
            raise UserError(f"model.lora: {adapter}: no such file or folder; give one, or a hub id org/name")
        if not hasattr(pipeline, "load_lora_weights"):
            _fuse_peft(pipeline, adapter)
            continue
        name = {"weight_name": path.name} if path.is_file() else {}
        try:
            pipeline.load_lora_weights(str(path.parent) if path.is_file() else adapter, use_safetensors=True, **name)
            parts = [part for part in pipeline._lora_loadable_modules if getattr(pipeline, part, None) is not None]
            pipeline.fuse_lora(components=parts)
        except Exception as error:  # of files, of the hub, of shapes: the libraries have no common one
            raise UserError(f"model.lora: {adapter} cannot be added to model.path ({first_line(error)})") from error
        pipeline.unload_lora_weights()


def _fuse_peft(pipeline: Any, adapter: str) -> None:
    from peft import PeftModel

    name = family_of(pipeline).network
    try:
        whole: Any = PeftModel.from_pretrained(getattr(pipeline, name), adapter)
    except Exception as error:  # of files, of the hub, of shapes
        kinds = f"a {type(pipeline).__name__} takes peft folders, which hold adapter_config.json"
        problem = f"{adapter} cannot be added to model.path ({first_line(error)})"
        raise UserError(f"model.lora: {problem}; {kinds}") from error
    pipeline.register_modules(**{name: whole.merge_and_unload()})
