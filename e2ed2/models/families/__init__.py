"""The kinds of diffusers pipelines that can be trained: one file each, and one line in this table."""

from typing import Any

from e2ed2.models.families.base import Family
from e2ed2.models.families.pixart import PixArt
from e2ed2.models.families.stable_diffusion import StableDiffusion
from e2ed2.models.families.stable_diffusion_3 import StableDiffusion3
from e2ed2.models.families.stable_diffusion_xl import StableDiffusionXL
from e2ed2.system.errors import UserError

FAMILIES: dict[str, Family] = {  # by the class name in a folder's model_index.json
    "PixArtAlphaPipeline": PixArt(),
    "PixArtSigmaPipeline": PixArt(),
    "StableDiffusionPipeline": StableDiffusion(),
    "LatentConsistencyModelPipeline": StableDiffusion(),
    "StableDiffusionXLPipeline": StableDiffusionXL(),
    "StableDiffusion3Pipeline": StableDiffusion3(),
}


def family_named(class_name: str) -> Family:
    """How to use a pipeline of this class.

    Raises:
        UserError: a class that is not in the table.
    """
    if class_name not in FAMILIES:
        raise UserError(f"model.path: a {class_name} cannot be used here; give one of {', '.join(FAMILIES)}")
    return FAMILIES[class_name]


def family_of(pipeline: Any) -> Family:
    """How to use a loaded pipeline."""
    return family_named(type(pipeline).__name__)


def network_of(pipeline: Any) -> Any:
    """The component that denoises: a transformer or a UNet."""
    return getattr(pipeline, family_of(pipeline).network)
