"""Protocols over files: captions, and folders of real images. Their paths are relative to `--data`, or to the file."""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from e2ed2.evaluation.features.image_set import FileImages
from e2ed2.evaluation.metrics.table import check_counts
from e2ed2.evaluation.protocols import FOLDERS, KINDS, Asked, Count, Protocol, RealImages, protocol_names
from e2ed2.sampling.finished_images import list_images
from e2ed2.system.errors import UserError
from e2ed2.system.json_file import parse_json
from e2ed2.system.text import lines_of, read_text, shown
from e2ed2.system.typed import Part
from e2ed2.system.watch import Watch

REMEDY = (
    "give .txt lines, .jsonl or .csv with `text` (and `file_name`, in a folder), COCO's captions JSON, or a folder of "
    "captioned images, in UTF-8"
)
SHIPPED = Path(__file__).parent / "assets"


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


class FileProtocol(Protocol):
    """Captions, a folder of real images, and `training`: images the models were trained on, for `authenticity`."""

    prompts: Prompts
    reference: Reference
    training: Reference | None = None

    @property
    def default_num_images(self) -> int:
        return self.prompts.num * self.prompts.samples_per_prompt

    def load(self, name: str, num_images: int | None, data: Path | None, watch: Watch) -> Asked:
        count = self.prompts.samples_per_prompt
        prompts = read_prompts(_resolve(self.prompts.path, name, data), self.prompts)
        wanted = len(prompts) * count if num_images is None else num_images
        if wanted % count or not count <= wanted <= len(prompts) * count:
            raise UserError(f"--num-images {wanted}: give a multiple of {count} up to {len(prompts) * count}")
        asked = [prompt for prompt in prompts[: wanted // count] for _ in range(count)]
        if len(set(asked)) < 2:
            raise UserError(f"--num-images {wanted}: the intervals need at least 2 different prompts")
        real = {"reference": self._real("reference", self.reference, name, data)}
        if self.training:
            real["training"] = self._real("training", self.training, name, data)
        counts = {"samples": wanted} | {kind: len(images) for kind, images in real.items()}
        notes = check_counts(self.metrics, counts, count)
        size = f" at {self.images.size} px" if self.images.size else ""
        reference = f"{len(real['reference'])} real images{size}"
        return Asked(name, self, asked, count, real, reference, self.metrics, notes)

    def _real(self, kind: str, part: Reference, name: str, data: Path | None) -> RealImages:
        path = _resolve(part.path, name, data)
        paths, images = list_images(path, kind), self.images
        if part.num_images is not None and len(paths) != part.num_images:
            counts = f"{len(paths)} images, but the protocol's set has {part.num_images}; complete it"
            raise UserError(f"{kind} {path}: {counts}, or mend {kind}.num_images in a copy of the protocol")
        return RealImages(FileImages(paths, kind, images.size, images.resample, images.enlarge_reference))


KINDS["prompts"] = FileProtocol
FOLDERS.append(SHIPPED)


def _resolve(path: Path, protocol: str, data: Path | None) -> Path:
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
        UserError: unreadable, an empty caption or one that is no text, or fewer than the protocol asks.
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
    return [read_text(text, "prompts", REMEDY).strip() for text in texts]


def _file_captions(path: Path) -> list[str]:
    with _readable(path):
        if path.suffix in (".jsonl", ".csv"):
            return [row["text"] for row in _rows(path)]
        if path.suffix == ".json":
            return _json_captions(parse_json(read_text(path, "prompts", REMEDY)))
        return lines_of(read_text(path, "prompts", REMEDY))


def _rows(path: Path) -> list[dict[str, str]]:
    """The rows of a `.jsonl` or `.csv`."""
    text = read_text(path, "prompts", REMEDY)
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    rows = []
    for number, line in enumerate(lines_of(text), 1):
        try:
            rows += [parse_json(line)] if line.strip() else []
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    return rows


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"prompts {shown(path)}: not readable as captions ({reason}); {REMEDY}") from error


def _json_captions(content: dict[str, Any]) -> list[str]:
    """COCO's file: of each image, in the order of their numbers, its first caption. Else `{id: {"prompt": ...}}`."""
    if "annotations" not in content:
        return [row["prompt"] for row in content.values()]
    first: dict[int, str] = {}
    for row in sorted(content["annotations"], key=lambda row: (row["image_id"], row["id"])):
        first.setdefault(row["image_id"], " ".join(row["caption"].split()))
    return list(first.values())
