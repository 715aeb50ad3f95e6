"""An adapter on its own, in the key names that other tools read.

Those of kohya's scripts are what ComfyUI looks for too: `lora_unet_` and a layer's name in the model's first code, with
`_` for every dot (github.com/Comfy-Org/ComfyUI: `model_lora_keys_unet` of comfy/lora.py). Layers that are one there,
such as query, key and value, become one adapter of their ranks together, with the same product.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from e2ed2.models.families import family_of
from e2ed2.models.families.base import Family
from e2ed2.models.lora.fuse import ADAPTER_FILE
from e2ed2.system.errors import UserError

if TYPE_CHECKING:
    from peft import PeftModel

DOWN, UP = ".lora_A.weight", ".lora_B.weight"
Layers = Mapping[str, tuple[Tensor, Tensor]]  # name of a layer -> down [rank, in, ...] and up [out, rank, ...]


def check_names(names: str, pipeline: Any, targets: Sequence[str]) -> None:
    """Raise UserError where an adapter on the layers of `targets` cannot be written in such names."""
    if names != "kohya":
        return
    family, kind = family_of(pipeline), type(pipeline).__name__
    field, remedy = "trajectory.lora_names: kohya", "set diffusers"
    if family.kohya_names is None:
        raise UserError(f"{field}, but neither ComfyUI nor kohya's tools know the network of a {kind}; {remedy}")
    adapted = [name for name, _ in getattr(pipeline, family.network).named_modules() if _is_meant(name, targets)]
    unnamed = [name for name in adapted if _original(name, family) is None]
    if unnamed:
        problem = f"{len(unnamed)} of {len(adapted)} layers of trajectory.lora_targets have no such name"
        raise UserError(f"{field}, but of a {kind} {problem}, {unnamed[0]} for one; leave those out, or {remedy}")


def save_adapter(network: nn.Module, pipeline: Any, folder: Path, names: str = "diffusers") -> None:
    """Write the adapter of one of `lora_copies` to `folder`; of another network nothing.

    As `pytorch_lora_weights.safetensors`, which `pipeline.load_lora_weights` takes, or for a pipeline without that
    method (PixArt's) as a peft folder, `PeftModel.from_pretrained(pipeline.transformer, "lora")`.

    Args:
        names: `diffusers`, or `kohya`, always one file; checked by `check_names`.
    """
    from peft import PeftModel, get_peft_model_state_dict

    if not isinstance(network, PeftModel):
        return
    values = {name.removeprefix("base_model.model."): x for name, x in get_peft_model_state_dict(network).items()}
    family = family_of(pipeline)
    if names == "kohya":
        folder.mkdir(exist_ok=True)
        whole = getattr(pipeline, family.network)
        named = kohya_file(_layers(values), family, lambda name: whole.get_submodule(name).weight.shape[0])
        save_file(named, folder / ADAPTER_FILE)
    elif hasattr(pipeline, "save_lora_weights"):
        pipeline.save_lora_weights(folder, **{f"{family.network}_lora_layers": values})
    else:
        _save_peft(network, folder)


def kohya_file(layers: Layers, family: Family, out_features: Callable[[str], int]) -> dict[str, Tensor]:
    """An adapter of scale 1 in kohya's names.

    Args:
        layers: by diffusers' names. out_features: of any of the network's layers.
    """
    originals: dict[str, list[str]] = {}
    for name in layers:
        found = _original(name, family)
        assert found is not None, name
        originals[found[0]] = found[1]
    named: dict[str, Tensor] = {}
    for original, parts in originals.items():
        down = torch.cat([layers[part][0] for part in parts if part in layers])
        if len(parts) == 1:
            up = layers[parts[0]][1]
        else:  # a part without an adapter has rows of zero
            ups = [layers[part][1] if part in layers else down.new_zeros(out_features(part), 0) for part in parts]
            up = torch.block_diag(*ups)
        key = f"lora_unet_{original.replace('.', '_')}"
        rank = torch.tensor(float(len(down)))  # by which tools divide alpha
        named |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": rank}
    return {name: x.contiguous() for name, x in named.items()}


def _original(name: str, family: Family) -> tuple[str, list[str]] | None:
    """The layer of the first code that `name` is, or is a part of, and all of its parts; None where there is none."""
    assert family.kohya_names is not None
    if not family.kohya_names:
        return name, [name]
    number = re.search(r"\.(\d+)\.", name)
    if number is None:
        return None
    layer = f"{name[: number.start()]}.#.{name[number.end() :]}"
    for original, parts in family.kohya_names.items():
        if layer in parts:
            return original.replace("#", number[1]), [part.replace("#", number[1]) for part in parts]
    return None


def _layers(values: Mapping[str, Tensor]) -> Layers:
    """Of peft's names."""
    names = [name.removesuffix(DOWN) for name in values if name.endswith(DOWN)]
    return {name: (values[name + DOWN], values[name + UP]) for name in names}


def _is_meant(name: str, targets: Sequence[str]) -> bool:
    """Whether peft puts an adapter on a layer."""
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(f".{name}".endswith(f".{target}") for target in targets)


def _save_peft(network: "PeftModel", folder: Path) -> None:
    network.peft_config["default"].base_model_name_or_path = None  # where on this machine it was
    network.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # a form to be filled in
