"""Evaluation protocols: small YAML files that say what is asked, what it is compared with, and how it is measured.

Those that ship lie in `assets/protocols/`; `--protocol my.yaml` takes any other. Their paths are relative to `--data`,
or else to the file. A protocol's hash covers everything that can move a figure, the contents of prompts and reference
and the weights of the networks included, so that figures of different protocols never meet in one column.
"""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from e2ed2.evaluation.features.image_set import list_images
from e2ed2.system.errors import UserError
from e2ed2.system.yaml_file import read_yaml

FOLDERS = [Path(__file__).parent / "assets", Path(__file__).parents[1] / "emoji" / "assets"]
Count = Annotated[int, Field(ge=1)]


class Part(BaseModel):
    """Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Emoji(Part):
    """Prompts and reference from the bundled emoji set.

    Attributes:
        captions: `styled` (`red apple, twemoji style`) or `plain` (`red apple`).
    """

    split: Literal["train", "heldout"]
    captions: Literal["styled", "plain"]


class EmojiProtocol(Part):
    """A protocol of the emoji benchmark, measured in EfficientNet features; see `emoji.py`."""

    emoji: Emoji
    num_images: Count
    samples_per_prompt: Count


class Prompts(Part):
    """Where the captions come from.

    Attributes:
        path: a `.txt` of one caption a line, `.jsonl` or `.csv` rows with `text`, COCO's `captions_*.json`, a `.json`
            of `{id: {"prompt": ...}}`, or a folder of captioned images.
        num: of captions; more are in the file only where `draw_seed` says how to choose.
        draw_seed: chooses by a permutation that torch draws from this seed; None takes the first ones.
    """

    path: Path
    num: Count
    samples_per_prompt: Count = 1
    draw_seed: int | None = None


class Reference(Part):
    """A folder of real images; `num_images`, where known, is checked."""

    path: Path
    num_images: Count | None = None


class Images(Part):
    """Both sets are brought to `size` pixels a side, None for as they are, from their central square.

    Attributes:
        enlarge_reference: whether real images may be smaller than that; samples never may.
    """

    size: Count | None = None
    resample: Literal["lanczos", "bicubic"] = "lanczos"
    enlarge_reference: bool = False


class Networks(Part):
    """What is measured with: a folder or hub id in transformers' format; for Inception its file, "" to fetch it."""

    inception: str = ""
    clip: str = "openai/clip-vit-large-patch14"
    clip_prefix: str = ""
    clip_cmmd: str = "openai/clip-vit-large-patch14-336"
    dinov2: str = "facebook/dinov2-large"
    pickscore: str = "yuvalkirstain/PickScore_v1"


class FileProtocol(Part):
    """A protocol over files: captions, a folder of real images, and the metrics of `measures.MEASURES`.

    Attributes:
        training: images the models were trained on, for the metric `authenticity`.
    """

    prompts: Prompts
    reference: Reference
    training: Reference | None = None
    images: Images = Images()
    networks: Networks = Networks()
    metrics: Annotated[list[str], Field(min_length=1)]


def protocol_names() -> list[str]:
    """Those that ship."""
    return sorted(path.stem for folder in FOLDERS for path in folder.glob("*.yaml"))


def read_protocol(name: str) -> EmojiProtocol | FileProtocol:
    """A shipped protocol by name, or a YAML file.

    Raises:
        UserError: no such protocol, unreadable file, unknown field, wrong type.
    """
    path = next((f for folder in FOLDERS if (f := folder / f"{name}.yaml").exists()), Path(name))
    if name not in protocol_names():
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            raise UserError(f"protocol '{name}' is unknown: choose {', '.join(protocol_names())}, or give a .yaml file")
    values = read_yaml(path, "protocol", FOLDERS[0])
    kind = EmojiProtocol if isinstance(values, dict) and "emoji" in values else FileProtocol
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise UserError(f"protocol {path}: {field or 'the file'}: {first['msg']}, found {first['input']!r}") from error


def resolve(path: Path, protocol: str, data: Path | None) -> Path:
    """A path of a protocol: as it is if absolute, else under `--data`, else beside the protocol's file.

    Raises:
        UserError: a shipped protocol without `--data`.
    """
    if path.is_absolute():
        return path
    if data is None and protocol in protocol_names():
        raise UserError(f"--data: protocol {protocol} needs {path}; give the folder that holds it")
    return (data or Path(protocol).parent) / path


def read_prompts(path: Path, prompts: Prompts) -> list[str]:
    """The captions of a protocol, in order.

    Raises:
        UserError: unreadable, an empty caption, or fewer than the protocol asks.
    """
    captions = _folder_captions(path) if path.is_dir() else _file_captions(path)
    for number, caption in enumerate(captions, 1):
        if not isinstance(caption, str) or not caption.strip():
            raise UserError(f"prompts {path}: caption {number} is empty; give one for each, or take it out")
    if len(captions) < prompts.num:
        raise UserError(f"prompts {path}: {len(captions)} captions, but the protocol asks {prompts.num}")
    if prompts.draw_seed is not None:
        generator = torch.Generator().manual_seed(prompts.draw_seed)
        return [captions[i] for i in torch.randperm(len(captions), generator=generator)[: prompts.num].tolist()]
    return captions[: prompts.num]


def _folder_captions(folder: Path) -> list[str]:
    """The caption of each image of a folder, by path: its first row in a metadata file, else `name.txt` beside it."""
    images = list_images(folder, "prompts")
    for metadata in (folder / "metadata.jsonl", folder / "metadata.csv"):
        if metadata.exists():
            with _readable(metadata):
                captions = {folder / row["file_name"]: row["text"] for row in reversed(_rows(metadata))}
            if missing := [path for path in images if path not in captions]:
                name = missing[0].relative_to(folder)
                raise UserError(f"prompts {metadata}: no row has the file_name {name}: every image needs a caption")
            return [captions[path] for path in images]
    texts = [path.with_suffix(".txt") for path in images]
    if missing := [text for text in texts if not text.exists()]:
        raise UserError(f"prompts {folder}: {missing[0].relative_to(folder)} is missing: every image needs a caption")
    return [text.read_text().strip() for text in texts]


def _file_captions(path: Path) -> list[str]:
    with _readable(path):
        if path.suffix in (".jsonl", ".csv"):
            return [row["text"] for row in _rows(path)]
        if path.suffix == ".json":
            return _json_captions(json.loads(path.read_text()))
        return _lines(path)


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a `.jsonl` or `.csv`."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in _lines(path) if line.strip()]
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _lines(path: Path) -> list[str]:
    """Ended by newlines alone: a caption may hold the other characters at which `str.splitlines` ends one."""
    return path.read_text().removesuffix("\n").split("\n")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(
            f"prompts {path}: not readable as captions ({reason}); give .txt lines, .jsonl or .csv with `text` (and "
            "`file_name`, in a folder), COCO's captions JSON, or a folder of captioned images"
        ) from error


def _json_captions(content: dict[str, Any]) -> list[str]:
    """COCO's file: of each image, in the order of their numbers, its first caption. Else `{id: {"prompt": ...}}`."""
    if "annotations" not in content:
        return [row["prompt"] for row in content.values()]
    first: dict[int, str] = {}
    for row in sorted(content["annotations"], key=lambda row: (row["image_id"], row["id"])):
        first.setdefault(row["image_id"], " ".join(row["caption"].split()))
    return list(first.values())
