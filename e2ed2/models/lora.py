"""Low-rank adapters (arXiv:2106.09685): fused into a start, trained on a frozen network, exported on their own."""

import copy
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from e2ed2.models.families import family_of
from e2ed2.models.families.base import LORA_TARGETS
from e2ed2.models.folders.hub import is_hub_id, list_files, weights_file
from e2ed2.models.folders.parts import refusing, tensors
from e2ed2.system.errors import UserError, said
from e2ed2.system.readers.json_file import read_typed
from e2ed2.system.readers.typed import MAX_SHOWN, Record

if TYPE_CHECKING:
    from peft import PeftModel

ADAPTER_FILE = "pytorch_lora_weights.safetensors"  # diffusers' name
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SCALE = ".alpha"  # ends its name in kohya's files
REMEDY = "give an adapter of this model, in diffusers', kohya's or (PixArt) peft's names"


class AdapterConfig(Record):
    """What peft must know of an adapter; the rest of its fields are its own."""

    peft_type: str
    r: Annotated[int, Field(ge=1, le=65_536)] = 8
    lora_alpha: Annotated[float, Field(allow_inf_nan=False)] = 8
    target_modules: str | list[str] | None = None


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


def check_names(names: str, pipeline: Any) -> None:
    """Raise UserError where adapters of a pipeline are not written in such names: kohya's are of UNets."""
    if names == "kohya" and family_of(pipeline).network != "unet":
        kind = type(pipeline).__name__
        has_file = hasattr(pipeline, "save_lora_weights")
        why = "ComfyUI reads diffusers' names of it" if has_file else "it has peft folders"
        raise UserError(f"trajectory.lora_names: kohya, but a {kind} has a transformer, and {why}; set diffusers")


def save_adapter(network: nn.Module, pipeline: Any, folder: Path, names: str = "diffusers") -> None:
    """Write the adapter of one of `lora_copies` to `folder`; of another network nothing.

    As `pytorch_lora_weights.safetensors`, which `pipeline.load_lora_weights` takes, or for a pipeline without that
    method (PixArt's) as a peft folder, `PeftModel.from_pretrained(pipeline.transformer, "lora")`.

    Args:
        names: `diffusers`, or `kohya`, which ComfyUI and other tools read too; checked by `check_names`.
    """
    from diffusers.utils import convert_state_dict_to_kohya
    from peft import PeftModel, get_peft_model_state_dict

    if not isinstance(network, PeftModel):
        return
    if not hasattr(pipeline, "save_lora_weights"):
        _save_peft(network, folder)
        return
    layers = {name.removeprefix("base_model.model."): x for name, x in get_peft_model_state_dict(network).items()}
    prefix = family_of(pipeline).network
    if names == "kohya":
        folder.mkdir(exist_ok=True)
        named = convert_state_dict_to_kohya({f"{prefix}.{name}": x for name, x in layers.items()})
        save_file({name: x.contiguous() for name, x in named.items()}, folder / ADAPTER_FILE)
        return
    pipeline.save_lora_weights(folder, **{f"{prefix}_lora_layers": layers})


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
        UserError: one does not exist or does not fit, in whole or in part.
    """
    for adapter in adapters:
        is_somewhere = adapter.endswith(".safetensors") or os.path.lexists(adapter) or is_hub_id(adapter)
        if not is_somewhere:
            raise UserError(f"model.lora: {adapter}: no such file or folder; give one, or a hub id org/name")
        if hasattr(pipeline, "load_lora_weights"):
            _fuse_file(pipeline, adapter)
        else:
            _fuse_peft(pipeline, adapter)


def _fuse_file(pipeline: Any, adapter: str) -> None:
    file = _adapter_file(adapter)
    names = [name for name in pipeline._lora_loadable_modules if getattr(pipeline, name, None) is not None]
    with _adding(adapter):
        offered = _load_adapter(file)
        with _taking(offered, lambda: [getattr(pipeline, name) for name in names], adapter):
            pipeline.load_lora_weights(str(file.parent), weight_name=file.name, use_safetensors=True)
        pipeline.fuse_lora(components=names, safe_fusing=True)
        pipeline.unload_lora_weights()


def _fuse_peft(pipeline: Any, adapter: str) -> None:
    from peft import PeftModel

    name = family_of(pipeline).network
    folder, kinds = Path(adapter), f"a {type(pipeline).__name__} takes peft folders"
    if not os.path.lexists(folder):
        folder = weights_file(f"{adapter}/{PEFT_CONFIG}").parent
        weights_file(f"{adapter}/{PEFT_WEIGHTS}")
    for file in (PEFT_CONFIG, PEFT_WEIGHTS):
        if not (folder / file).is_file():  # peft would go on to a pickle
            raise UserError(f"model.lora: {adapter} cannot be added to model.path (no {file}); {kinds}, which hold it")
    read_typed(folder / PEFT_CONFIG, AdapterConfig, "model.lora", REMEDY)
    with _adding(adapter):
        offered, network = _load_adapter(folder / PEFT_WEIGHTS), getattr(pipeline, name)
        with _taking(offered, lambda: [network], adapter):  # which is changed in place
            whole: Any = PeftModel.from_pretrained(network, str(folder), low_cpu_mem_usage=True)
        pipeline.register_modules(**{name: whole.merge_and_unload(safe_merge=True)})


def _adapter_file(adapter: str) -> Path:
    """The weights of an adapter on disk, from its file, its folder or the hub.

    Raises:
        UserError: there are none, or several.
    """
    if adapter.endswith(".safetensors"):
        return weights_file(adapter)
    if os.path.lexists(folder := Path(adapter)) and not folder.is_dir():
        raise UserError(f"model.lora: {adapter} cannot be added to model.path: only safetensors are read; {REMEDY}")
    is_here = folder.is_dir()
    names = [path.name for path in folder.glob("*.safetensors")] if is_here else list_files(adapter)
    names = [name for name in sorted(names) if name.endswith(".safetensors") and "/" not in name]
    chosen = [name for name in names if name == ADAPTER_FILE] or names
    if len(chosen) != 1:
        found = ", ".join(names)[:80] or "none"
        problem = f"its safetensors are {found}; give one file"
        raise UserError(f"model.lora: {adapter} cannot be added to model.path: {problem}")
    return folder / chosen[0] if is_here else weights_file(f"{adapter}/{chosen[0]}")


def _load_adapter(file: Path) -> dict[str, Tensor]:
    offered = load_file(file)
    for name, x in offered.items():
        if not (x.is_floating_point() or name.endswith(SCALE)):
            raise ValueError(f"{name} is of {x.dtype}")
    return offered


def _adding(adapter: str) -> AbstractContextManager[None]:
    return refusing(f"model.lora: {adapter} cannot be added to model.path", REMEDY)


@contextmanager
def _taking(offered: Mapping[str, Tensor], networks: Callable[[], list[nn.Module]], adapter: str) -> Iterator[None]:
    """Loads an adapter; libraries leave what fits nowhere without a word, so it is looked for in the networks by value.

    Raises:
        UserError: a tensor that no layer has taken, or a layer that is left without one.
    """
    cause = None
    try:
        yield
    except Exception as error:
        cause = error
    there = [x for network in networks() for name, x in tensors(network).items()]
    shapes = {x.shape for x in offered.values()}
    taken = Counter(_print(x) for x in there if x.shape in shapes and not x.is_meta)
    rest = []
    for name, x in offered.items():
        if taken[_print(x)] > 0:
            taken[_print(x)] -= 1
        elif not (name.startswith("lora_") and name.endswith(SCALE)):
            rest.append(name)
    problem = f" ({said(cause)})" if cause else ""
    if rest:
        problem = f": {len(rest)} of {len(offered)} tensors fit no layer, such as {rest[0][: 2 * MAX_SHOWN]}{problem}"
    elif not offered or any(x.is_meta for x in there):
        problem = f": tensors of its layers are missing{problem}"
    if problem:
        raise UserError(f"model.lora: {adapter} cannot be added to model.path{problem}; {REMEDY}") from cause


def _print(x: Tensor) -> tuple[torch.Size, int]:
    """What tells one tensor from another in whatever precision the networks hold them."""
    return x.shape, hash(x.detach().cpu().bfloat16().contiguous().flatten().view(torch.int16).numpy().tobytes())
