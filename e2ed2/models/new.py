"""Networks and pipelines with random weights, from a recipe's `model.architecture`."""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from e2ed2.models.folders.bundled import resolve_model
from e2ed2.models.folders.parts import no_more_than, tensors
from e2ed2.models.folders.pipeline import assemble, load_autoencoder
from e2ed2.models.scheduler import noise_scheduler
from e2ed2.prediction import PredictionType
from e2ed2.system.environment import machine_memory
from e2ed2.system.errors import UserError, said

if TYPE_CHECKING:
    from diffusers import PixArtAlphaPipeline

M = TypeVar("M", bound=nn.Module)
MOST_TENSORS = 10_000  # the largest there are have a few thousand

PREDICTION_TYPE: PredictionType = (
    "v_prediction"  # epsilon would multiply the network's error by sigma/alpha = 157 at the first step
)


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
        with torch.device("meta"), no_more_than(MOST_TENSORS, f"it has more than {MOST_TENSORS:,} tensors"):
            size = sum(x.numel() * x.element_size() for x in tensors(kind(**arguments)).values())
        if size > (memory := machine_memory()):
            raise ValueError(f"its weights take {size >> 30:,} GiB, this machine has {memory >> 30}")
        return kind(**arguments)
    except Exception as error:  # a constructor has no common error
        raise UserError(f"model.architecture: {kind.__name__} refuses it ({said(error)})") from error


def new_pipeline(autoencoder: str, architecture: Mapping[str, Any] | None, solver: str) -> "PixArtAlphaPipeline":
    """An untrained `PixArtTransformer2DModel`, which predicts v, in the latent space of a trained autoencoder.

    Args:
        autoencoder: the model folder of an `autoencoder` stage, or emoji-autoencoder. solver: `lcm` or `ddim`.
    Raises:
        UserError: no such autoencoder, or an architecture that does not fit together.
    """
    from diffusers import PixArtTransformer2DModel

    transformer = new_network(PixArtTransformer2DModel, architecture)
    vae = load_autoencoder(resolve_model(autoencoder))
    pipeline = assemble(transformer, vae, noise_scheduler(solver, PREDICTION_TYPE))
    config, channels = transformer.config, vae.config.latent_channels
    width = config.num_attention_heads * config.attention_head_dim
    needed = {
        "in_channels": (channels, "latents"),
        "caption_channels": (pipeline.text_encoder.config.hidden_size, "captions"),
        "cross_attention_dim": (width, "num_attention_heads x attention_head_dim"),
    }
    for name, (value, of) in needed.items():
        if config[name] != value:
            raise UserError(f"model.architecture.{name}: {config[name]}, but {of} have {value}: set it to that")
    return pipeline
