"""A component of a model folder: read by its library and whole, or refused in one line."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from e2ed2.system.errors import UserError, said
from e2ed2.system.readers.json_file import read_fields, read_typed
from e2ed2.system.readers.typed import Record

INDEX_FILE = "model_index.json"  # of a pipeline
REMEDY = "fetch or save the model again"
MAX_NUMBER = 2**20  # in the config of a network or a scheduler


class ShardIndex(Record):
    """Which file of its own folder holds a tensor; never a pickle."""

    weight_map: dict[str, Annotated[str, Field(pattern=r"^[^/\\]+\.safetensors$")]]


@contextmanager
def refusing(where: str, remedy: str = REMEDY) -> Iterator[None]:
    """Whatever a library raises on damaged files becomes one line; what it logs of them meanwhile is not shown.

    Libraries have no common error, and a tokenizer's panic is not even an `Exception`.
    """
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{where} ({said(error)}); {remedy}") from error
    finally:
        logging.disable(before)


def read_config(path: Path) -> dict[str, Any]:
    """The config of a network or a scheduler.

    Raises:
        UserError: no JSON of fields, or a number over `MAX_NUMBER`, which would be counted to.
    """
    values = read_fields(path, "model file", REMEDY)
    stack: list[tuple[str, Any]] = [*values.items()]
    while stack:
        name, value = stack.pop()
        if isinstance(value, dict):
            stack += value.items()
        elif isinstance(value, list):
            stack += [(name, inner) for inner in value]
        elif isinstance(value, int | float) and MAX_NUMBER < abs(value) < float("inf"):  # schedulers have infinities
            raise UserError(f"model file {path}: {name}: {value}, must be at most {MAX_NUMBER:,}; {REMEDY}")
    return values


def load_network(
    kind: Any, folder: Path, name: str = "", variant: str | None = None, dtype: torch.dtype = torch.float32
) -> Any:
    """A network of diffusers or transformers with all its weights, from safetensors.

    Args:
        kind: its class. name: of its subfolder; empty: `folder` itself. variant: where there are files of it.
    Raises:
        UserError: damaged files, tensors of other shapes than the config's, or missing ones.
    """
    place, what = folder / name, name or kind.__name__
    files = [*place.glob("*.safetensors")]
    of_variant = variant if variant and any(f".{variant}" in file.name for file in files) else None
    read_config(place / "config.json")
    for index in place.glob("*.safetensors.index*.json"):
        read_typed(index, ShardIndex, "model file", REMEDY)
    of_diffusers = kind.__module__.partition(".")[0] == "diffusers"
    with refusing(f"model {folder}: not a loadable model folder, {what}"):
        with no_more_than_in(files):
            network, report = kind.from_pretrained(
                place,
                local_files_only=True,
                use_safetensors=True,
                variant=of_variant,
                output_loading_info=True,
                **{"torch_dtype" if of_diffusers else "dtype": dtype},
            )
        missing = sorted(report["missing_keys"]) or [key for key, x in tensors(network).items() if x.is_meta]
    if missing:
        lacking = f"{len(missing)} of its tensors, such as {missing[0]}"
        raise UserError(f"model {folder}: {what} lacks {lacking}; {REMEDY}")
    return network


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, those that are not saved too."""
    return dict(chain(network.named_parameters(), network.named_buffers()))


def _num_tensors(files: Sequence[Path]) -> int:
    total = 0
    for file in files:
        with safe_open(file, "pt") as opened:
            total += len(opened.keys())
    return total


def no_more_than_in(files: Sequence[Path]) -> AbstractContextManager[None]:
    """Stops the making of a network that has far more parameters than its files hold: a config of a million layers."""
    most = 4 * _num_tensors(files) + 100  # tied ones count, and each once more when its values come
    return no_more_than(most, "its config asks for far more tensors than its files hold")


@contextmanager
def no_more_than(most: int, message: str) -> Iterator[None]:
    """Stops the making of a network of more than `most` parameters, with ValueError(message)."""
    count = 0

    def count_up(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise ValueError(message)

    hook = register_module_parameter_registration_hook(count_up)
    try:
        yield
    finally:
        hook.remove()
