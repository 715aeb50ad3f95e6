"""Where a model comes from, under a name that others can find: never a path of this machine."""

import os
import re
from collections.abc import Collection
from pathlib import Path

from e2ed2.models.folders.card import head_of
from e2ed2.models.folders.hub import is_hub_id
from e2ed2.models.folders.parts import INDEX_FILE
from e2ed2.system.errors import UserError
from e2ed2.system.readers.json_file import read_fields

HUB_CACHE = r"(?:^|/)models--([\w.-]+?)--([\w.-]+?)(?:/|$)"  # how the hub's cache names the folder of org/name
BASE = r"^base_model:[ \t]*(?:\[|\n[ \t]*-)?[ \t]*[\"']?([^\s\"',\]]+)"  # the first, where there are several
FOLDERS = (  # with which a path begins, rather than an organisation's name
    *("checkpoint", "checkpoints", "ckpt", "ckpts", "content", "data", "experiments", "exports", "home", "local"),
    *("logs", "mnt", "model", "models", "out", "output", "outputs", "root", "results", "run", "runs", "tmp", "trained"),
    *("weights", "work", "workspace"),
)


def origin_of(folder: Path, bundled: Collection[str]) -> str | None:
    """The name of what lies in a model folder, or of what it was made from, as far as its files tell.

    Args:
        bundled: names that are known wherever e2ed2 is; all others are hub ids.
    """
    if (cached := re.search(HUB_CACHE, str(folder.absolute()))) is not None:
        return "/".join(cached.groups())
    base = re.search(BASE, head_of(folder), re.M)
    configs = (folder / file for file in (INDEX_FILE, "unet/config.json", "transformer/config.json"))
    told = [base[1] if base else None, *map(_name, configs)]
    return next((name for name in told if name is not None and (name in bundled or is_public(name))), None)


def is_public(name: str) -> bool:
    """Whether a name is one of the hub's, `org/name`, rather than a path of some machine."""
    first = name.partition("/")[0]
    return is_hub_id(name) and not (first.lower() in FOLDERS or os.path.lexists(name) or os.path.lexists(first))


def _name(config: Path) -> str | None:
    """What diffusers notes of where a part was loaded from."""
    try:
        name = read_fields(config, "model file", "").get("_name_or_path")
    except UserError:  # it has no such file, or nothing to say
        return None
    cached = re.search(HUB_CACHE, str(name))
    return "/".join(cached.groups()) if cached else str(name)
