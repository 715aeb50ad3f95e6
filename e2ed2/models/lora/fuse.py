"""Adapters of others, and of our own, fused into a start: by all of their tensors, or refused."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn

from e2ed2.models.families import family_of
from e2ed2.models.folders.hub import is_hub_id, list_files, weights_file
from e2ed2.models.folders.parts import refusing, tensors
from e2ed2.system.errors import UserError, said
from e2ed2.system.readers.json_file import read_typed
from e2ed2.system.readers.typed import MAX_SHOWN, Record

ADAPTER_FILE = "pytorch_lora_weights.safetensors"  # diffusers' name
PEFT_CONFIG, PEFT_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LOOKED_AT = 4096  # numbers of a tensor, evenly: of what it is made of each part is far larger than the gaps
SCALE = ".alpha"  # ends its name in kohya's files
REMEDY = "give an adapter of this model, in diffusers', kohya's or (PixArt) peft's names"


class AdapterConfig(Record):
    """What peft must know of an adapter; the rest of its fields are its own."""

    peft_type: str
    r: Annotated[int, Field(ge=1, le=65_536)] = 8
    lora_alpha: Annotated[float, Field(allow_inf_nan=False)] = 8
    target_modules: str | list[str] | None = None


def fuse(pipeline: Any, adapters: Sequence[str]) -> None:
    """Add adapters, such as LCM-LoRA, into the pipeline's weights, in place.

    Args:
        adapters: safetensors files (also `org/name/file` of the hub), folders of one, or hub ids; of a pipeline without
            `load_lora_weights` (PixArt's) peft folders. With `@0.125` behind it, at that scale.
    Raises:
        UserError: one does not exist or does not fit, in whole or in part.
    """
    for adapter, scale in map(at_scale, adapters):
        is_somewhere = adapter.endswith(".safetensors") or os.path.lexists(adapter) or is_hub_id(adapter)
        if not is_somewhere:
            raise UserError(f"model.lora: {adapter}: no such file or folder; give one, or a hub id org/name")
        if hasattr(pipeline, "load_lora_weights"):
            _fuse_file(pipeline, adapter, scale)
        else:
            _fuse_peft(pipeline, adapter, scale)


def at_scale(adapter: str) -> tuple[str, float]:
    """(Name, scale) of `name@scale`; what exists is a name, whatever it looks like, and its scale is 1."""
    found = re.fullmatch(r"(.+)@(\d+(?:\.\d+)?)", adapter)
    if found is None or os.path.lexists(adapter):
        return adapter, 1.0
    return found[1], float(found[2])


def _fuse_file(pipeline: Any, adapter: str, scale: float) -> None:
    file = _adapter_file(adapter)
    names = [name for name in pipeline._lora_loadable_modules if getattr(pipeline, name, None) is not None]
    with _adding(adapter):
        offered = _load_adapter(file)
        try:
            made = _converted(pipeline, offered)
        except Exception as error:  # whatever its converters meet with
            named = f"names such as {next(iter(offered), '')[: 2 * MAX_SHOWN]}"
            raise ValueError(
                f"{named} are not read as an adapter's of a {type(pipeline).__name__}: {said(error)}"
            ) from error
        lost = [] if made.keys() == offered.keys() else _lost(pipeline, offered)
        with _taking(made, lambda: [getattr(pipeline, name) for name in names], adapter, lost, len(offered)):
            pipeline.load_lora_weights(str(file.parent), weight_name=file.name, use_safetensors=True)
        pipeline.fuse_lora(components=names, lora_scale=scale, safe_fusing=True)
        pipeline.unload_lora_weights()


def _fuse_peft(pipeline: Any, adapter: str, scale: float) -> None:
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

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
        for layer in (module for module in whole.modules() if isinstance(module, LoraLayer)):
            layer.scale_layer(scale)
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


def _converted(pipeline: Any, offered: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What diffusers makes of the tensors of a file: of other tools' it renames, splits and scales them."""
    known = {"unet_config": pipeline.unet.config} if hasattr(pipeline, "unet") else {}
    made = pipeline.lora_state_dict(dict(offered), **known)
    return made[0] if isinstance(made, tuple) else made


def _lost(pipeline: Any, offered: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that diffusers leaves out of what it makes of a file, without an error.

    Told by numbers: each tensor is filled with one of its own, and scales are 1.
    """
    names = [name for name in offered if not name.endswith(SCALE)]
    numbered = {name: torch.tensor(float(i)).expand(offered[name].shape) for i, name in enumerate(names, start=1)}
    ranks = {name.partition(".lora_down")[0].partition(".lora_A")[0]: len(offered[name]) for name in names}
    scales = {name: torch.tensor(float(ranks.get(name.removesuffix(SCALE), 1))) for name in offered.keys() - set(names)}
    made = _converted(pipeline, numbered | scales).values()
    found = {number for x in made for number in x.flatten()[:: max(1, x.numel() // LOOKED_AT)].tolist()}
    return [name for i, name in enumerate(names, start=1) if i not in found]


def _adding(adapter: str) -> AbstractContextManager[None]:
    return refusing(f"model.lora: {adapter} cannot be added to model.path", REMEDY)


@contextmanager
def _taking(
    offered: Mapping[str, Tensor],
    networks: Callable[[], list[nn.Module]],
    adapter: str,
    lost: Sequence[str] = (),
    count: int | None = None,
) -> Iterator[None]:
    """Loads an adapter; libraries leave what fits nowhere without a word, so it is looked for in the networks by value.

    Args:
        lost: what is known to fit nowhere. count: of the file's tensors, by default those that are offered.
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
    rest = [*lost]
    for name, x in offered.items():
        if taken[_print(x)] > 0:
            taken[_print(x)] -= 1
        elif not (name.startswith("lora_") and name.endswith(SCALE)):
            rest.append(name)
    problem = f" ({said(cause)})" if cause else ""
    if rest:
        all_of_them, example = count or len(offered), rest[0][: 2 * MAX_SHOWN]
        problem = f": {len(rest)} of {all_of_them} tensors fit no layer, such as {example}{problem}"
    elif not offered or any(x.is_meta for x in there):
        problem = f": tensors of its layers are missing{problem}"
    if problem:
        raise UserError(f"model.lora: {adapter} cannot be added to model.path{problem}; {REMEDY}") from cause


def _print(x: Tensor) -> tuple[torch.Size, int]:
    """What tells one tensor from another in whatever precision the networks hold them."""
    return x.shape, hash(x.detach().cpu().bfloat16().contiguous().flatten().view(torch.int16).numpy().tobytes())
