"""Model folders: diffusers pipelines that plain diffusers loads, with the exact call in `inference.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from e2ed2.models.autoencoder import cell_side
from e2ed2.models.families import FAMILIES, denoisers_of, family_of, fix_shift, network_of
from e2ed2.models.folders.card import CARD_FILE, PROMPT, model_card
from e2ed2.models.folders.hub import weights_file
from e2ed2.models.folders.index import copy_text_encoders, forget_origin, read_index, text_files
from e2ed2.models.folders.inference import INFERENCE_FILE, Inference, read_inference
from e2ed2.models.folders.parts import INDEX_FILE, REMEDY, load_network, no_more_than_in, read_config, refusing
from e2ed2.models.folders.trial import try_network, try_out
from e2ed2.models.one_file.network import network_weights
from e2ed2.models.scheduler import has_dynamic_shift, schedule_of
from e2ed2.models.text import MINILM_PACKAGE, minilm_folder
from e2ed2.system.errors import UserError
from e2ed2.system.files import ENDLESS, is_endless, write_file

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ModelMixin, PixArtAlphaPipeline, SchedulerMixin

PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}


def assemble(
    transformer: nn.Module, autoencoder: "AutoencoderKL", scheduler: "SchedulerMixin"
) -> "PixArtAlphaPipeline":
    """A PixArt pipeline with MiniLM as its text encoder."""
    from diffusers import PixArtAlphaPipeline
    from transformers import AutoTokenizer, BertModel

    folder = minilm_folder()
    with refusing(f"text encoder {folder}: not loadable", f"reinstall {MINILM_PACKAGE}"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
    return PixArtAlphaPipeline(
        tokenizer=tokenizer,
        text_encoder=load_network(BertModel, folder),
        vae=autoencoder,
        transformer=transformer,
        scheduler=scheduler,
    )


def latent_shape(pipeline: Any, height: int, width: int) -> tuple[int, int, int]:
    """(C, h, w) of the latents of a picture of height x width pixels.

    Raises:
        UserError: a side that autoencoder and network do not divide, or one far over what the network is made for.
    """
    family, cell = family_of(pipeline), cell_side(pipeline.vae)
    sizes = family.sizes(pipeline)
    if height % sizes.step or width % sizes.step or max(height, width) > sizes.most:
        allowed = f"multiples of {sizes.step}, at most {sizes.most}"
        raise UserError(f"size: {height}x{width} pixels, but both sides must be {allowed}")
    return family.channels(network_of(pipeline).config), height // cell, width // cell


def save_pipeline(
    pipeline: Any,
    inference: Inference,
    folder: Path,
    later_transformers: Sequence[nn.Module] = (),
    about: Mapping[str, Any] | None = None,
    text_from: tuple[Path, str | None] | None = None,
    prompt: str = PROMPT,
) -> None:
    """Write the pipeline (safetensors), a card with the exact call, and `inference.json` (last: it marks the end).

    Args:
        later_transformers: of the steps after the first, where each has its own.
        about: rows for the card, as in `card.model_card`.
        text_from: folder and variant of the files of text encoders that the pipeline was loaded without.
        prompt: that the card's code draws.
    """
    family, network = family_of(pipeline), network_of(pipeline)
    pipeline.register_to_config(**family.saved_config(pipeline))
    pipeline.save_pretrained(folder, safe_serialization=True)
    if text_from is not None:
        copy_text_encoders(*text_from, folder)
    if later_transformers:
        names = [f"{family.network}_{k}" for k in range(2, 2 + len(later_transformers))]
        inference = replace(inference, transformers=[family.network, *names])
        for name, transformer in zip(names, later_transformers, strict=True):
            cast("ModelMixin", transformer).save_pretrained(folder / name, safe_serialization=True)
    forget_origin(folder)
    has_filter = getattr(pipeline, "safety_checker", None) is not None
    card = model_card(inference, family, type(network).__name__, about or {}, prompt, has_filter=has_filter)
    write_file(folder / CARD_FILE, card.encode())
    (folder / INFERENCE_FILE).write_text(inference.to_json(family))


def load_pipeline(
    folder: Path,
    variant: str | None = None,
    dtype: torch.dtype | None = None,
    network_dtype: torch.dtype | None = None,
    *,
    with_text: bool = True,
    side: int | None = None,
    num_steps: int | None = None,
) -> tuple[Any, Inference]:
    """(pipeline, Inference) of a model folder, ours or plain diffusers', tried out; nothing is unpickled or downloaded.

    Args:
        variant: of the weight files, such as `fp16`. dtype: of the text encoders.
        network_dtype: of the network; the rest is float32, as these are by default.
        with_text: whether to load the text encoders, which may be far larger than the rest.
        side, num_steps: of pictures and sampler that it shall be used for, in place of its own; the noise levels of
            some models go by them.
    Raises:
        UserError: no such folder, a pickle in it, not a pipeline or one of an unknown class, or damaged.
    """
    full = torch.float32
    pipeline = open_pipeline(folder, variant, full, dtype or full, network_dtype, with_text=with_text)
    family, kind = family_of(pipeline), type(pipeline.vae).__name__
    if kind != family.autoencoder:
        needed = f"give a pipeline whose vae is {family.autoencoder}"
        raise UserError(f"model.path: the vae of {folder} is {kind}; {needed}")
    if not has_dynamic_shift(pipeline.scheduler):
        schedule_of(pipeline.scheduler)
    with refusing(f"model {folder}: not a loadable model folder"):
        inference = read_inference(folder, pipeline)
        latent_shape(pipeline, inference.height, inference.width)
        inference = inference if side is None else replace(inference, height=side, width=side)
        fix_shift(pipeline, inference.height, inference.width, num_steps or inference.num_inference_steps)
    try_out(pipeline, inference, folder)
    return pipeline, inference


def open_pipeline(
    folder: Path,
    variant: str | None,
    dtype: torch.dtype,
    text_dtype: torch.dtype,
    network_dtype: torch.dtype | None = None,
    *,
    with_text: bool = True,
    any_class: bool = False,
) -> Any:
    """The diffusers pipeline of a folder, its networks whole.

    Args:
        dtype: of autoencoder and, by default, network. text_dtype: of the text encoders. variant, with_text: as in
            `load_pipeline`.
        any_class: as in `read_index`; then all is loaded, in `dtype`.
    Raises:
        UserError: as `load_pipeline`.
    """
    from diffusers import DiffusionPipeline

    refuse_pickles(folder)
    index = read_index(folder, any_class=any_class)
    given: dict[str, Any] = {}
    if index.class_name in FAMILIES:
        kinds = {"vae": dtype, FAMILIES[index.class_name].network: network_dtype or dtype}
        kinds |= dict.fromkeys(index.text_encoders if with_text else (), text_dtype)
    else:
        kinds = {name: dtype for name, pair in index.parts.items() if _is_network(*pair)}
    for name, precision in kinds.items():
        given[name] = load_network(_class(folder, name, *index.parts[name]), folder, name, variant, precision)
    if not with_text:
        text_files(folder, variant)  # which are used later
        given |= dict.fromkeys(index.text_encoders)
    rest = [name for name in index.parts if name not in given]
    for config in (folder / name / file for name in rest for file in ("config.json", "scheduler_config.json")):
        if config.exists():
            read_config(config)
    files = [*folder.rglob("*.safetensors")]
    with refusing(f"model {folder}: not a loadable model folder"), no_more_than_in(files):
        return DiffusionPipeline.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, variant=variant, dtype=text_dtype, **given
        )


def _class(folder: Path, name: str, library: str, class_name: str) -> Any:
    """The class of a network.

    Raises:
        UserError: there is none of this name, or it is no network.
    """
    if not _is_network(library, class_name):
        path = folder / INDEX_FILE
        raise UserError(f"model file {path}: {name}: {library} has no network {class_name[:80]}")
    return getattr(import_module(library), class_name)


def _is_network(library: str, class_name: str) -> bool:
    kind = getattr(import_module(library), class_name, None) if library in ("diffusers", "transformers") else None
    return isinstance(kind, type) and issubclass(kind, nn.Module) and hasattr(kind, "from_pretrained")


def replace_network(pipeline: Any, name: str) -> None:
    """Load other weights of the same architecture into the network, such as SDXL-Lightning's, in place.

    Args:
        name: a safetensors or GGUF file, or `org/name/file` of the hub; in diffusers' names or its first code's.
    Raises:
        UserError: it does not exist or does not fit.
    """
    found, file = denoisers_of(pipeline), weights_file(name)
    if len(found) != 1:
        raise UserError(f"network {name}: a {type(pipeline).__name__} has {len(found)} networks; leave it out")
    network = found[0]
    weights = network_weights(network, file, name)
    with refusing(f"network {name}: not weights of this {type(network).__name__}", "give another file"):
        network.load_state_dict(weights)


def load_transformers(folder: Path, pipeline: Any, inference: Inference) -> list[nn.Module]:
    """The networks of a loaded pipeline: one for all steps, or one for each.

    Raises:
        UserError: one of them is missing or damaged.
    """
    first = network_of(pipeline)
    networks: list[nn.Module] = [first]
    for name in (inference.transformers or [])[1:]:
        later = load_network(type(first), folder, name)
        with refusing(f"model {folder}: {name} cannot be run"):
            try_network(pipeline, later)
        networks.append(later.to(pipeline.device))
    return networks


def load_autoencoder(folder: Path) -> "AutoencoderKL":
    """The autoencoder of an `autoencoder` stage's model folder, frozen.

    Raises:
        UserError: no such folder, a pickle in it, or not an autoencoder.
    """
    from diffusers import AutoencoderKL

    refuse_pickles(folder)
    return load_network(AutoencoderKL, folder).eval().requires_grad_(False)


def refuse_pickles(folder: Path) -> None:
    """Raise UserError when the folder is missing, or is ours and holds a file that loading could execute.

    A plain diffusers folder often has pickles beside its safetensors: there they are not read.
    """
    if not folder.is_dir():
        raise UserError(f"model {folder}: no such folder; give a model folder or emoji-base, emoji-lcm, emoji-e2ed2")
    is_network = (folder / "config.json").exists() and not (folder / INDEX_FILE).exists()
    ours = (folder / INFERENCE_FILE).exists() or is_network
    files = sorted(folder.rglob("*"))
    if endless := [path for path in files if is_endless(path)]:
        raise UserError(f"model file {endless[0]}: {ENDLESS}; {REMEDY}")
    bad = [path for path in files if path.suffix in PICKLES] if ours else []
    if bad:
        raise UserError(f"model {folder}: {bad[0].name} may run code when loaded; only safetensors are allowed")
