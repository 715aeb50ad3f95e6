"""The kinds of diffusers pipelines that can be trained: one file each, and one line in this table."""

from typing import TYPE_CHECKING

from e2ed2.errors import UserError
from e2ed2.models.families.base import Family
from e2ed2.models.families.pixart import PixArt

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

FAMILIES: dict[str, Family] = {  # by the class name in a folder's model_index.json
    "PixArtAlphaPipeline": PixArt(),
    "PixArtSigmaPipeline": PixArt(),
}


def family_of(pipeline: "DiffusionPipeline") -> Family:
    """How to use a loaded pipeline.

    Raises:
        UserError: a class that is not in the table.
    """
    return family_named(type(pipeline).__name__)


def family_named(class_name: str) -> Family:
    """The same by the pipeline's class name."""
    if class_name not in FAMILIES:
        raise UserError(f"model.path: a {class_name} cannot be trained; give one of {', '.join(FAMILIES)}")
    return FAMILIES[class_name]
