"""The kinds of diffusers pipelines that can be trained: one file each, and one line in this table."""

import json
from typing import Any

from torch import nn

from e2ed2.models.families.base import Family
from e2ed2.models.families.chroma import Chroma
from e2ed2.models.families.dit import DiT
from e2ed2.models.families.flux import Flux
from e2ed2.models.families.flux_2_klein import Flux2Klein
from e2ed2.models.families.pixart import PixArt
from e2ed2.models.families.qwen_image import QwenImage
from e2ed2.models.families.sana import Sana, SanaSprint
from e2ed2.models.families.stable_diffusion import StableDiffusion
from e2ed2.models.families.stable_diffusion_3 import StableDiffusion3
from e2ed2.models.families.stable_diffusion_xl import StableDiffusionXL
from e2ed2.models.families.z_image import ZImage
from e2ed2.models.scheduler import flow_scheduler, has_dynamic_shift
from e2ed2.system.errors import UserError
from e2ed2.system.readers.typed import MAX_SHOWN

FAMILIES: dict[str, Family] = {  # by the class name in a folder's model_index.json
    "PixArtAlphaPipeline": PixArt(),
    "PixArtSigmaPipeline": PixArt(),
    "StableDiffusionPipeline": StableDiffusion(),
    "LatentConsistencyModelPipeline": StableDiffusion(),
    "StableDiffusionXLPipeline": StableDiffusionXL(),
    "StableDiffusion3Pipeline": StableDiffusion3(),
    "Flux2KleinPipeline": Flux2Klein(),
    "ZImagePipeline": ZImage(),
    "FluxPipeline": Flux(),
    "ChromaPipeline": Chroma(),
    "QwenImagePipeline": QwenImage(),
    "SanaPipeline": Sana(),
    "SanaSprintPipeline": SanaSprint(),
    "DiTPipeline": DiT(),
}


def family_named(class_name: object) -> Family:
    """How to use a pipeline of this class.

    Raises:
        UserError: a class that is not in the table, or no name of one.
    """
    if not isinstance(class_name, str) or class_name not in FAMILIES:
        name = (class_name if isinstance(class_name, str) else json.dumps(class_name))[:MAX_SHOWN]
        raise UserError(f"model.path: a {name} cannot be used here; give one of {', '.join(FAMILIES)}")
    return FAMILIES[class_name]


def family_of(pipeline: Any) -> Family:
    """How to use a loaded pipeline."""
    return family_named(type(pipeline).__name__)


def network_of(pipeline: Any) -> Any:
    """The component that denoises: a transformer or a UNet."""
    return getattr(pipeline, family_of(pipeline).network)


def fix_shift(pipeline: Any, height: int, width: int, num_steps: int) -> None:
    """Where a flow's noise levels go by the size of a picture, those of one size, in place."""
    if has_dynamic_shift(pipeline.scheduler):
        shift = family_of(pipeline).shift(pipeline, height, width, num_steps)
        pipeline.register_modules(scheduler=flow_scheduler(shift))


def denoisers_of(pipeline: Any) -> list[nn.Module]:
    """What denoises: a known family's network; of any other pipeline all networks of diffusers that neither encode nor
    decode.
    """
    from diffusers import ModelMixin

    if type(pipeline).__name__ in FAMILIES:
        return [network_of(pipeline)]
    beside = ("encoder", "proj", "norm")  # what carries the prompt to the network
    parts = [part for name, part in pipeline.components.items() if not any(word in name for word in beside)]
    return [part for part in parts if isinstance(part, ModelMixin) and not hasattr(part, "decode")]
