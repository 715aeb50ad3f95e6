"""A whole model in one safetensors file, made a model folder once, in the user's cache."""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from e2ed2.models.families import FAMILIES
from e2ed2.models.folders.hub import is_hub_id
from e2ed2.models.folders.index import read_index
from e2ed2.models.folders.parts import INDEX_FILE, refusing
from e2ed2.models.one_file.header import is_adapter, looks_like, missing_parts, read_header
from e2ed2.system.errors import UserError, said
from e2ed2.system.files import atomic_folder, locked
from e2ed2.system.paths import cache_dir

GUESSED = ("v1", "xl_base", "sd3", "sd35_medium", "sd35_large")  # diffusers' names of kinds that a file itself tells
NAMED = ("v2", "flux-dev", "flux-schnell", "flux-2-dev", "chroma", "z-image-turbo", "sana")  # the user has to say more
NO_NOISE = "v_pred"  # a tensor that says so of SDXL's relatives
CONFIGS = ["*.json", "*.txt", "*.model", "*.jinja"]  # configs and tokenizers
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16}


def config_of(file: Path, config: str | None) -> str:
    """A model folder or hub id with configs and tokenizers of the model in a file: as named, or as its tensors tell.

    Raises:
        UserError: it is no whole model, none of a known family, or the kind has to be named.
    """
    what = f"model '{file}'"
    tensors = read_header(file, what)
    if is_adapter(tensors):
        raise UserError(f"{what}: an adapter: give the model that it is of as model.path, and this as model.lora")
    kind = looks_like(tensors)
    if missing := missing_parts(tensors):
        such = f", such as {kind[1]}," if kind else ""
        raise UserError(
            f"{what}: no whole model, without {' and '.join(missing)}: if it holds a network, give a model{such} as "
            "model.path, of which it takes the rest, and this as model.network"
        )
    if config is not None:
        return config
    if kind is not None and kind[0] not in (*GUESSED, *NAMED):
        raise UserError(f"{what}: a checkpoint of {kind[1]}'s kind, which is none of the families that are known here")
    if kind is None or kind[0] in NAMED or NO_NOISE in tensors:
        such = f", such as {kind[1]}" if kind else ""
        raise UserError(
            f"{what}: its tensors do not tell enough of what it is: give model.config, a model folder or hub id of the "
            f"same kind{such}"
        )
    return kind[1]


def unpacked(file: Path, config: str | None = None) -> Path:
    """The folder of a model that lies whole in one file; made at the first call, of a file of this date and size.

    Args:
        config: as in `config_of`.
    Raises:
        UserError: as `config_of`; or the configs cannot be had, or are of another kind of model.
    """
    config = config_of(file, config)
    stat = file.stat()
    of = f"{file.absolute()} {stat.st_size} {stat.st_mtime_ns} {config}"
    target = cache_dir() / "models" / f"{file.stem}-{hashlib.sha256(of.encode()).hexdigest()[:12]}"
    if not target.is_dir():
        target.parent.mkdir(exist_ok=True)
        with locked(target.parent):  # the first of several processes does it
            if not target.is_dir():
                pipeline = _read(file, config)
                with atomic_folder(target) as folder:
                    pipeline.save_pretrained(folder, safe_serialization=True)
    return target


def _read(file: Path, config: str) -> Any:
    import diffusers

    configs = _configs(file, config)
    class_name = read_index(configs).class_name
    kind, looks = getattr(diffusers, class_name), looks_like(read_header(file, f"model '{file}'"))
    like = f"; it looks like {looks[1]}" if looks else ""
    where = f"model '{file}': no checkpoint of a {class_name}, as {config} is one{like}"
    asked = {"config": str(configs), "local_files_only": True, "torch_dtype": _dtype(file)}
    with refusing(where, "give model.config, a model folder or hub id of its own kind"):
        try:
            pipeline = kind.from_single_file(str(file), **asked)
        except NotImplementedError as error:  # torch's, of a network that is left without weights
            raise ValueError("some of its tensors are missing") from error
        for name in (FAMILIES[class_name].network, "vae"):
            missing = [key for key, x in getattr(pipeline, name).state_dict().items() if x.is_meta]
            if missing:
                raise ValueError(f"{len(missing)} tensors of its {name} are missing, such as {missing[0]}")
    return pipeline


def _configs(file: Path, config: str) -> Path:
    """The folder of configs, fetched if need be; without weights where it is the hub's."""
    if (Path(config) / INDEX_FILE).is_file():
        return Path(config)
    if os.path.lexists(config) or not is_hub_id(config):
        raise UserError(f"model.config: {config}: no model folder; give one (its weights are not read), or a hub id")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(config, allow_patterns=CONFIGS))
    except Exception as error:  # of the hub or of its HTTP library
        remedy = f"`hf download {config} --include '*.json' '*.txt' --local-dir DIR` elsewhere, and model.config=DIR"
        problem = f"the configs of {config} are not to be had from the hub ({said(error)}); {remedy}"
        raise UserError(f"model '{file}': {problem}") from error


def _dtype(file: Path) -> torch.dtype:
    """Of most of the file's tensors; float32 where it is none to compute with."""
    with safe_open(file, "pt") as opened:
        names = opened.keys()
        found = [opened.get_slice(name).get_dtype() for name in names]
    return DTYPES.get(max(set(found), key=found.count), torch.float32)
