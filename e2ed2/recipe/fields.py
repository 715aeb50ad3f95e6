"""What the sections of a recipe are made of: the base class, and numbers within their ranges."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, field_validator

from e2ed2.system.readers.json_file import fit_values
from e2ed2.system.readers.text import fit_text
from e2ed2.system.readers.typed import Part


def _no_switch(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number, not yes or no")
    return value


MOST_UPDATES, MOST_HELD, LARGEST = 10**9, 2**16, 1e12

Count = Annotated[int, Field(strict=True, ge=1, lt=2**63)]
CountOrZero = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Updates = Annotated[Count, Field(le=MOST_UPDATES)]
Held = Annotated[Count, Field(le=MOST_HELD)]  # rows, samples, threads: what a machine has to have at the same time
HeldOrZero = Annotated[CountOrZero, Field(le=MOST_HELD)]
# not strict: YAML reads 1e-4 as text
Number = Annotated[float, BeforeValidator(_no_switch), Field(ge=-LARGEST, le=LARGEST)]
Fraction = Annotated[Number, Field(ge=0, le=1)]
NonNegative = Annotated[Number, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
PathOrUrl = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]
PlainValues = Annotated[dict[str, JsonValue], AfterValidator(fit_values)]  # by names that no section knows


class Section(Part):
    """Unknown keys are refused, and texts and paths that no file can hold."""

    @field_validator("*")
    @classmethod
    def _fits(cls, value: Any) -> Any:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str | Path):
                fit_text(str(text))
        return value
