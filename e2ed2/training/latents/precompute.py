"""`e2ed2 precompute`: a training set's latents and prompt embeddings into a cache, going on after a kill."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch import Tensor

from e2ed2.data.batch import ImageTextSet, Picture
from e2ed2.data.cache import (
    PLAIN,
    SHARD_SIZE,
    CachedItem,
    CachedSet,
    num_shards,
    write_index,
    write_manifest,
    write_shard,
)
from e2ed2.data.cache_files import Tensors, read_manifest, read_shard_metadata
from e2ed2.data.source_set import SourceSet
from e2ed2.data.stream import StreamSet
from e2ed2.models.autoencoder import encode_all
from e2ed2.models.new import new_pipeline
from e2ed2.models.prompt_embeds import PromptEmbeds
from e2ed2.models.text import MAX_SEQUENCE_LENGTH, encode_prompts, text_encoders
from e2ed2.recipe.config import Config, objective_weights
from e2ed2.recipe.data import SourceConfig
from e2ed2.recipe.objective import judges_features
from e2ed2.system.errors import UserError
from e2ed2.system.files import atomic_file, locked, sweep
from e2ed2.system.processes import about_processes, process_state
from e2ed2.system.watch import Watch, silent
from e2ed2.training.latents.encoders import made_with
from e2ed2.training.latents.latent_set import check_size
from e2ed2.training.latents.lazy import cut_captions
from e2ed2.training.latents.training_set import load_training_set
from e2ed2.training.precision import resolve_precision
from e2ed2.training.stages.start import half_of, load_start

Shard = tuple[int, list[Picture], dict[str, Any] | None]  # number, items, state of the stream after them


def precompute(
    config: Config, out: Path, say: Callable[[str], None] = print, watch: Watch = silent
) -> Path:
    """Encode the recipe's training set once; `data.source=cache data.path=OUT` then trains on it.

    What is there already is not done again. Several processes share the work, but for a stream's.

    Args:
        watch: called with (what, done, total) now and then; the end of a stream is not known: total is then 0.
    Raises:
        UserError: `out` holds a cache of something else, or the data cannot be used.
    """
    if config.stage == "autoencoder" or config.data.source == "cache":
        raise UserError("precompute: needs images and a trained autoencoder; give a recipe of another stage and source")
    if len(config.data.sources) > 1 and config.data.sources[0].is_stream:
        raise UserError("data.sources: mixed streams have no end; precompute each of them alone, as data.source")
    data = load_training_set(config.data, say, lambda done, total: watch("scanning", done, total))
    assert not isinstance(data, CachedSet)
    process = process_state()
    config = resolve_precision(config, {}, process.device)
    if process.is_main_process:
        say(about_processes(process, config.train.mixed_precision))
    pipeline, max_sequence_length = _load_encoders(config)
    check_size(data.size, config.data, pipeline)
    for part in (pipeline.vae, *text_encoders(pipeline).values()):
        part.to(process.device)
    if cut := cut_captions(data, pipeline, max_sequence_length):
        say(f"note: {cut}")
    encoder = _Encoder(pipeline, max_sequence_length, judges_features(config.objective, objective_weights(config)))
    manifest = {
        "made_with": made_with(config, pipeline, max_sequence_length),
        "data": _fingerprint(data, config),
        "parts": [list(part) for part in data.parts] if isinstance(data, SourceSet) else [],
        "has_images": encoder.keeps_images,
        "cut_captions": cut,
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        with locked(out):
            _claim(out, manifest)
            sweep(out)
    except OSError as error:
        raise UserError(f"--out {out}: not a folder that can be written ({error.strerror}); name another") from error
    num_items = 0 if isinstance(data, StreamSet) else len(data)
    for number, pictures, state in _missing_shards(data, out, process):
        write_shard(out, number, encoder.encode(pictures), state)
        watch("encoding", min((number + 1) * SHARD_SIZE, num_items), num_items)
    is_whole = process.is_main_process if isinstance(data, StreamSet) else num_shards(out) * SHARD_SIZE >= num_items
    if is_whole:  # the last of several processes sees to it
        write_index(out)
        with atomic_file(out / "empty.safetensors") as temporary:
            save_file(encoder.empty(), temporary)
        write_manifest(out, {**manifest, "complete": True})
    return out


class _Encoder:
    """Pictures -> what is kept of them."""

    def __init__(self, pipeline: Any, max_sequence_length: int, keeps_images: bool):
        self._pipeline, self._max_sequence_length = pipeline, max_sequence_length
        self.keeps_images = keeps_images

    def encode(self, pictures: Sequence[Picture]) -> list[CachedItem]:
        captions = [_numbered_captions(picture) for picture in pictures]
        prompts = list(dict.fromkeys(text for texts in captions for text in texts.values()))
        embeds = dict(zip(prompts, self._embed(prompts), strict=True)) if prompts else {}
        return [
            CachedItem(
                x0,
                picture.micro,
                {number: embeds[text] for number, text in texts.items()},
                picture.plain_caption or picture.captions[0],
                picture.image if self.keeps_images else None,
            )
            for picture, x0, texts in zip(pictures, self._latents(pictures), captions, strict=True)
        ]

    def empty(self) -> Tensors:
        """The embeddings of the empty prompt."""
        return self._embed([""])[0]

    def _latents(self, pictures: Sequence[Picture]) -> list[Tensor]:
        """Scaled latents [C, h, w] of each, images of one shape encoded together."""
        latents: dict[int, Tensor] = {}
        for shape in dict.fromkeys(picture.image.shape for picture in pictures):
            rows = [i for i, picture in enumerate(pictures) if picture.image.shape == shape]
            images = torch.stack([pictures[i].image for i in rows])
            latents |= zip(rows, encode_all(self._pipeline.vae, images).cpu(), strict=True)
        return [latents[i].clone() for i in range(len(pictures))]

    def _embed(self, prompts: list[str]) -> list[Tensors]:
        """The embeddings of each, one row, without padding."""
        embeds = encode_prompts(prompts, self._pipeline, self._max_sequence_length)
        return [_contiguous(embeds.select(torch.tensor([i]))) for i in range(len(prompts))]


def _contiguous(embeds: PromptEmbeds) -> Tensors:
    return {name: value.contiguous() for name, value in embeds.tensors().items()}


def _numbered_captions(picture: Picture) -> dict[int, str]:
    texts = dict(enumerate(picture.captions))
    return texts if picture.plain_caption is None else {**texts, PLAIN: picture.plain_caption}


def _load_encoders(config: Config) -> tuple[Any, int]:
    """The pipeline whose encoders the recipe's stage trains on, as that loads it; tokens of its longest prompt."""
    if config.stage == "base":
        return new_pipeline(str(config.model.path), config.model.architecture, "ddim"), MAX_SEQUENCE_LENGTH
    pipeline, start = load_start(config, config.data.size, half_of(config))
    return pipeline, start.max_sequence_length


def _fingerprint(data: ImageTextSet | SourceSet | StreamSet, config: Config) -> str:
    """Hash of the items: of a set at hand of all its files or captions, of a stream of where it is."""
    if isinstance(data, StreamSet):
        fields = config.data.model_dump(include=set(SourceConfig.model_fields))
        if fields["default_caption"] is None:  # caches of earlier versions do not know it
            del fields["default_caption"]
        content = repr(fields)
    else:
        content = data.fingerprint()
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _claim(out: Path, manifest: dict[str, Any]) -> None:
    """Begin a cache, or go on with one of the same."""
    before = read_manifest(out)
    if before is None:
        if any(not path.name.startswith(".") for path in out.iterdir()):
            raise UserError(f"--out {out}: holds other files; name a new folder")
        write_manifest(out, {**manifest, "complete": False})
        return
    both = (manifest.copy(), before.model_dump(mode="json", by_alias=True))
    wanted, found = ({**values.pop("made_with"), **values} for values in both)
    for field, value in wanted.items():
        if found.get(field) != value:
            raise UserError(
                f"--out {out}: holds a cache made with another {field} ({found.get(field)}, now {value}); name another "
                "folder, or remove this one"
            )


def _missing_shards(data: ImageTextSet | SourceSet | StreamSet, out: Path, process: PartialState) -> Iterator[Shard]:
    """What this process has to do; a stream is the main process's alone, as it is read in order."""
    if isinstance(data, StreamSet):
        number, state = 0, None
        while (found := read_shard_metadata(out, number)) is not None:
            number, state = number + 1, found.state.model_dump() if found.state else None
        windows = data.windows(SHARD_SIZE, state) if process.is_main_process else iter(())
        for i, (pictures, after) in enumerate(windows, start=number):
            yield i, pictures, after
        return
    for number, rows in enumerate(torch.arange(len(data)).split(SHARD_SIZE)):
        is_mine = number % process.num_processes == process.process_index
        if is_mine and read_shard_metadata(out, number) is None:
            yield number, data.pictures(rows), None
