"""Model folders: diffusers pipelines that plain diffusers loads, with the exact call in `inference.json`."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from e2ed2.models.families import family_named, family_of, network_of
from e2ed2.models.folders.card import model_card
from e2ed2.models.folders.hub import weights_file
from e2ed2.models.folders.inference import INFERENCE_FILE, Inference, read_inference
from e2ed2.models.text import minilm_folder
from e2ed2.system.errors import UserError, first_line

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ModelMixin, PixArtAlphaPipeline, SchedulerMixin

LOADING_ERRORS = (OSError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError)  # of damaged folders
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


def assemble(
    transformer: nn.Module, autoencoder: "AutoencoderKL", scheduler: "SchedulerMixin"
) -> "PixArtAlphaPipeline":
    """A PixArt pipeline with MiniLM as its text encoder."""
    from diffusers import PixArtAlphaPipeline
    from transformers import AutoTokenizer, BertModel

    folder = minilm_folder()
    return PixArtAlphaPipeline(
        tokenizer=AutoTokenizer.from_pretrained(folder),
        text_encoder=BertModel.from_pretrained(folder),
        vae=autoencoder,
        transformer=transformer,
        scheduler=scheduler,
    )


def latent_shape(pipeline: Any, height: int, width: int) -> tuple[int, int, int]:
    """(C, h, w) of the latents of a picture of height x width pixels.

    Raises:
        UserError: a side that the autoencoder does not divide.
    """
    factor = pipeline.vae_scale_factor
    if height % factor or width % factor:
        raise UserError(f"size: {height}x{width} pixels, but both sides must be multiples of {factor}")
    return network_of(pipeline).config.in_channels, height // factor, width // factor


def save_pipeline(
    pipeline: Any,
    inference: Inference,
    folder: Path,
    later_transformers: Sequence[nn.Module] = (),
    about: Mapping[str, Any] | None = None,
    text_from: tuple[Path, str | None] | None = None,
) -> None:
    """Write the pipeline (safetensors), a card with the exact call, and `inference.json` (last: it marks the end).

    Args:
        later_transformers: of the steps after the first, where each has its own.
        about: rows for the card, as in `card.model_card`.
        text_from: folder and variant of the files of text encoders that the pipeline was loaded without.
    """
    family, network = family_of(pipeline), network_of(pipeline)
    pipeline.save_pretrained(folder, safe_serialization=True)
    if text_from is not None:
        _copy_text_encoders(*text_from, folder)
    if later_transformers:
        names = [f"{family.network}_{k}" for k in range(2, 2 + len(later_transformers))]
        inference = replace(inference, transformers=[family.network, *names])
        for name, transformer in zip(names, later_transformers, strict=True):
            cast("ModelMixin", transformer).save_pretrained(folder / name, safe_serialization=True)
    forget_origin(folder)
    (folder / "README.md").write_text(model_card(inference, family, type(network).__name__, about or {}))
    (folder / INFERENCE_FILE).write_text(inference.to_json(family))


def text_files(folder: Path, variant: str | None) -> list[Path]:
    """Weights and configs of a model folder's text encoders, as they are loaded."""
    found = []
    for part in _text_parts(folder):
        weights = sorted((folder / part).glob("model*.safetensors*"))
        of_variant = [path for path in weights if variant and f".{variant}" in path.name]
        plain = [p for p in weights if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?", p.name)]
        found += [folder / part / "config.json", *(of_variant or plain)]
    return found


def _text_parts(folder: Path) -> list[str]:
    """Names of the text encoders that `model_index.json` lists."""
    parts = json.loads((folder / "model_index.json").read_text()).items()
    return [name for name, kind in parts if name.startswith("text_encoder") and isinstance(kind, list) and all(kind)]


def _copy_text_encoders(start: Path, variant: str | None, folder: Path) -> None:
    """The text encoders of `start` into a pipeline folder that was saved without, their precision kept."""
    mark = f".{variant}" if variant else ""
    for path in text_files(start, variant):
        target = folder / path.parent.name / (path.name.replace(mark, "") if mark else path.name)
        target.parent.mkdir(exist_ok=True)
        if path.suffix == ".json" and mark:
            target.write_text(path.read_text().replace(mark, ""))  # an index names the files of its shards
        else:
            shutil.copyfile(path, target)
    index, listed = (json.loads((at / "model_index.json").read_text()) for at in (folder, start))
    index |= {name: listed[name] for name in _text_parts(start)}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def forget_origin(folder: Path) -> None:
    """Remove from the configs what diffusers notes there: where on this machine the weights were loaded from."""
    for path in folder.rglob("*.json"):
        config = json.loads(path.read_text())
        if isinstance(config, dict) and config.pop("_name_or_path", None):
            path.write_text(json.dumps(config, indent=2) + "\n")


def load_pipeline(
    folder: Path, variant: str | None = None, dtype: torch.dtype | None = None, *, with_text: bool = True
) -> tuple[Any, Inference]:
    """(pipeline, Inference) of a model folder, ours or plain diffusers'; nothing is unpickled, nothing downloaded.

    Args:
        variant: of the weight files, such as `fp16`. dtype: of the text encoders; the rest is float32.
        with_text: whether to load the text encoders, which may be far larger than the rest.
    Raises:
        UserError: no such folder, a pickle in it, not a pipeline, or one of an unknown class.
    """
    from diffusers import DiffusionPipeline

    refuse_pickles(folder)
    try:
        class_name = json.loads((folder / "model_index.json").read_text())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"model {folder}: not a loadable model folder ({first_line(error)})") from error
    family = family_named(class_name)
    absent = {} if with_text else dict.fromkeys(_text_parts(folder))
    kinds = {"vae": torch.float32, family.network: torch.float32, "default": dtype or torch.float32}
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, variant=variant, dtype=kinds, **absent
        )
        return pipeline, read_inference(folder, pipeline)
    except LOADING_ERRORS as error:
        raise UserError(f"model {folder}: not a loadable model folder ({first_line(error)})") from error


def replace_network(pipeline: Any, name: str) -> None:
    """Load other weights of the same architecture into the network, such as SDXL-Lightning's, in place.

    Args:
        name: a safetensors file, or `org/name/file` of the hub.
    Raises:
        UserError: it does not exist or does not fit.
    """
    network, file = network_of(pipeline), weights_file(name)
    try:
        network.load_state_dict(load_file(file))
    except LOADING_ERRORS as error:
        kind = f"weights of this {type(network).__name__} in diffusers' names"
        raise UserError(f"network {name}: not {kind} ({first_line(error)})") from error


def load_transformers(folder: Path, pipeline: Any, inference: Inference) -> list[nn.Module]:
    """The networks of a loaded pipeline: one for all steps, or one for each.

    Raises:
        UserError: one of them is missing or damaged.
    """
    first = network_of(pipeline)
    networks: list[nn.Module] = [first]
    for name in (inference.transformers or [])[1:]:
        try:
            later = type(first).from_pretrained(folder / name, local_files_only=True, use_safetensors=True)
        except LOADING_ERRORS as error:
            raise UserError(f"model {folder}: {name} is not a loadable network ({first_line(error)})") from error
        networks.append(later.to(pipeline.device))
    return networks


def load_autoencoder(folder: Path) -> "AutoencoderKL":
    """The autoencoder of an `autoencoder` stage's model folder, frozen.

    Raises:
        UserError: no such folder, a pickle in it, or not an autoencoder.
    """
    from diffusers import AutoencoderKL

    refuse_pickles(folder)
    try:
        autoencoder = AutoencoderKL.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except LOADING_ERRORS as error:
        raise UserError(f"model {folder}: not an autoencoder folder ({first_line(error)})") from error
    return autoencoder.eval().requires_grad_(False)


def refuse_pickles(folder: Path) -> None:
    """Raise UserError when the folder is missing, or is ours and holds a file that loading could execute.

    A plain diffusers folder often has pickles beside its safetensors: there they are not read.
    """
    if not folder.is_dir():
        raise UserError(f"model {folder}: no such folder; give a model folder or emoji-base, emoji-lcm, emoji-e2ed2")
    ours = (folder / INFERENCE_FILE).exists() or not (folder / "model_index.json").exists()
    bad = sorted(p for p in folder.rglob("*") if p.suffix in PICKLES) if ours else []
    if bad:
        raise UserError(f"model {folder}: {bad[0].name} may run code when loaded; only safetensors are allowed")
