"""Networks with random weights, from a recipe's `model.architecture`."""

import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from e2ed2.errors import UserError

M = TypeVar("M", bound=nn.Module)


def new_network(kind: type[M], architecture: Mapping[str, Any] | None) -> M:
    """A diffusers network by its constructor's keyword arguments.

    Raises:
        UserError: an argument it does not have, or values that do not fit together.
    """
    arguments = architecture or {}
    known = list(inspect.signature(kind).parameters)
    for name in arguments:
        if name not in known:
            raise UserError(f"model.architecture.{name}: unknown field; {kind.__name__} has {', '.join(known)}")
    try:
        return kind(**arguments)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise UserError(f"model.architecture: {kind.__name__} refuses it ({' '.join(str(error).split())})") from error
