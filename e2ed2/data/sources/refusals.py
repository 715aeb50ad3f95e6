"""Why data cannot be read and what to do, in one line, whatever a library raised and whatever a file holds."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2ed2.system.errors import REFUSALS, UserError, missing_extra

OF_CACHES = REFUSALS | {errno.ENOTDIR, errno.EEXIST, errno.ENOENT}
FULL = {errno.ENOSPC, errno.EDQUOT}  # only who writes is told so


@contextmanager
def in_one_line(path: object) -> Iterator[None]:
    """Whatever is raised while `path` is being read comes out as a UserError.

    Of `datasets`, fsspec's many backends, tarfile, pyarrow: a missing file, no network, no such split, damaged bytes.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise unreadable(path, error) from error


def unreadable(path: object, error: BaseException) -> UserError:
    """What to tell a user when `path` cannot be read."""
    error = _first_cause(error)
    name, reason = type(error).__name__, " ".join(str(error).split()) or type(error).__name__
    if (cache := _cache_of(error)) is not None:
        variable, folder = cache
        return UserError(f"the cache {folder} of the data sets library: {reason}; set {variable} to another folder")
    if (message := missing_extra(error)) is not None:
        return UserError(message)
    if isinstance(error, ImportError):
        remedy = "install that package"
    elif "Credentials" in name or isinstance(error, PermissionError):
        remedy = "give access, for S3 by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile"
    else:
        remedy = "name a path, URL or data set that can be read, or fetch the damaged file again"
    return UserError(f"data.path '{path}' cannot be read ({reason}): {remedy}")


def is_of_cache(error: BaseException) -> bool:
    """Whether not the data are at fault, but where the data sets library keeps them."""
    return _cache_of(_first_cause(error)) is not None


def _cache_of(error: BaseException) -> tuple[str, Path] | None:
    """(Variable that sets it, the folder) of the cache that cannot be written."""
    if not isinstance(error, OSError) or error.errno not in OF_CACHES:
        return None
    from datasets import config
    from huggingface_hub import constants

    caches = {
        "HF_DATASETS_CACHE": config.HF_DATASETS_CACHE,
        "HF_HUB_CACHE": constants.HF_HUB_CACHE,
        "HF_HOME": config.HF_CACHE_HOME,
    }
    for variable, folder in caches.items():
        if _is_along(Path(error.filename), Path(folder)) if error.filename else error.errno in FULL:
            return variable if variable in os.environ else "HF_HOME", Path(folder)
    return None


def _is_along(path: Path, folder: Path) -> bool:
    """Whether within the folder, or above it."""
    return path in (folder, *folder.parents) or folder in path.parents


def _first_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
