"""Plain values from outside to typed, frozen objects: what is wrong is one line that names the field."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from e2ed2.system.errors import UserError

M = TypeVar("M", bound=BaseModel)
MAX_SHOWN = 80  # letters of a value in a message


class Part(BaseModel):
    """What people write: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Record(BaseModel):
    """What programs write: keys of later versions are kept, and no type is guessed."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


def checked(model: type[M], values: Any, where: str, remedy: str = "") -> M:
    """Values as an object of `model`.

    Args:
        where: begins the message, `protocol my.yaml`. remedy: ends it.
    Raises:
        UserError: the first field that is missing, unknown or of another kind.
    """
    check_fields(values, where, remedy)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {in_words(error)}{'; ' + remedy if remedy else ''}") from error


def check_fields(values: Any, where: str, remedy: str = "") -> None:
    """Raise UserError, as `checked` does, when values have no names."""
    if not isinstance(values, Mapping):
        found = "nothing" if values is None else type(values).__name__
        raise UserError(f"{where}: must hold fields, found {found}{'; ' + remedy if remedy else ''}")


def in_words(error: ValidationError) -> str:
    """The first mistake of several: `metrics.0: Input should be a valid string, found 3`."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"{field} is missing"
    message = first["msg"].removeprefix("Value error, ")
    found = repr(first["input"])
    found = found if len(found) <= MAX_SHOWN else found[:MAX_SHOWN] + "..."
    return f"{field + ': ' if field else ''}{message}, found {found}"
