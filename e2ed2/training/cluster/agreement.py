"""Whether all processes train the same: one that reads another recipe, code or data would spoil the run of all."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object

import e2ed2
from e2ed2.data.batch import ImageTextSet
from e2ed2.data.source_set import SourceSet
from e2ed2.recipe.config import Config
from e2ed2.recipe.load import flatten
from e2ed2.system.errors import UserError
from e2ed2.system.readers.typed import MAX_SHOWN


def check_agreement(what: str, own: Callable[[], Mapping[str, str]], num_processes: int) -> None:
    """Raise UserError, in all processes, where one of them has other values. All have to call it.

    Args:
        what: the line begins with it.
        own: gives values by name, of this process; asked where there are others.
    """
    if num_processes == 1:
        return
    first, *others = gather_object([dict(own())])
    for rank, values in enumerate(others, start=1):
        for name in first.keys() | values.keys():
            here, there = (str(both.get(name))[:MAX_SHOWN] for both in (first, values))
            if first.get(name) != values.get(name):
                raise UserError(
                    f"{what} {name}: {there} in process {rank}, but {here} in process 0; give all of them the same"
                )


def recipe_and_code(config: Config) -> dict[str, str]:
    """Every field of the recipe, the versions, and a digest of our own code."""
    fields = {name: str(value) for name, value in flatten(config.model_dump(mode="json")).items()}
    folder, digest = Path(e2ed2.__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return {**fields, "e2ed2": f"{e2ed2.__version__} {digest.hexdigest()[:12]}", "torch": torch.__version__}


def about_items(data: Any) -> dict[str, str]:
    """How many items, and which: of files their paths, sizes and captions. A stream is read in parts: nothing."""
    about = {"items": str(len(data))} if hasattr(data, "__len__") else {}
    if isinstance(data, ImageTextSet | SourceSet):
        about["content"] = hashlib.sha256(data.fingerprint().encode()).hexdigest()[:12]
    return about
