"""Models by their hub id, `org/name`, and single files: fetched once into the hub's own cache, safetensors only."""

import os
import re
from contextlib import suppress
from pathlib import Path

from e2ed2.system.errors import UserError, said

EXTRA_FILES = ("README.md", "inference.json")  # which diffusers does not ask for


def is_hub_id(name: str) -> bool:
    """Whether `name` looks like `org/name`."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name) is not None


def download(repo: str, revision: str | None = None, variant: str | None = None) -> Path:
    """The folder of a hub model in the hub's cache, fetched if need be.

    Raises:
        UserError: it does not exist, is gated, has no such revision or variant, or cannot be reached.
    """
    from diffusers import DiffusionPipeline
    from huggingface_hub import hf_hub_download

    try:
        folder = Path(DiffusionPipeline.download(repo, revision=revision, variant=variant, use_safetensors=True))
    except Exception as error:  # of the hub, of its HTTP library, or of diffusers: all end here, with their remedy
        raise UserError(f"model '{repo}': {_remedy(repo, revision, error)}") from error
    for name in EXTRA_FILES:
        with suppress(Exception):  # it has none, or the cache is all there is: the model is complete without
            hf_hub_download(repo, name, revision=revision)
    return folder


def weights_file(name: str) -> Path:
    """A weight file on disk, or `org/name/file` of the hub, fetched if need be.

    Raises:
        UserError: neither.
    """
    if Path(name).is_file():
        return Path(name)
    if os.path.lexists(name):
        raise UserError(f"weights {name}: not a file; give the safetensors file itself")
    from huggingface_hub import hf_hub_download

    organisation, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    repo = f"{organisation}/{repository}"
    if not (file and is_hub_id(repo)):
        raise UserError(f"weights {name}: no such file; give a safetensors file, or org/name/file of the hub")
    try:
        return Path(hf_hub_download(repo, file))
    except Exception as error:  # of the hub or of its HTTP library
        raise UserError(
            f"weights {name}: no such file, and not to be had from the hub ({said(error)}); "
            f"fetch it elsewhere with `hf download {repo} {file}` and give the file"
        ) from error


def list_files(repo: str) -> list[str]:
    """The files of a hub repository.

    Raises:
        UserError: it does not exist, is gated, or cannot be reached.
    """
    from huggingface_hub import list_repo_files

    try:
        return list_repo_files(repo)
    except Exception as error:  # of the hub or of its HTTP library
        raise UserError(f"model '{repo}': {_remedy(repo, None, error)}") from error


def _remedy(repo: str, revision: str | None, error: BaseException) -> str:
    """What the user can do, from the kind of error or of what caused it."""
    kinds = {type(e).__name__ for e in (error, error.__cause__, error.__context__) if e is not None}
    if "GatedRepoError" in kinds:
        return f"gated; accept its licence at https://huggingface.co/{repo}, then log in with `hf auth login`"
    if "RepositoryNotFoundError" in kinds:
        return "no such folder, and no such model on the hub; check the name, or log in if it is private"
    if "RevisionNotFoundError" in kinds:
        return f"has no model.revision {revision}; give a branch, tag or commit that it has"
    return (
        f"no such folder, and not to be had from the hub ({said(error)}); check the network, model.variant, and "
        f"that it has safetensors, or fetch it elsewhere with `hf download {repo} --local-dir DIR` and give DIR"
    )
