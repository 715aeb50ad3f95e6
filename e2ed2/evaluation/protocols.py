"""Evaluation protocols: small YAML files that say what is asked, what it is compared with, and how it is measured.

`--protocol my.yaml` takes any file beside those that ship. The kind here is over files: captions, and folders of real
images, whose paths are relative to `--data`, or to the file. Rooms above add kinds of their own.
"""

import sys
from pathlib import Path

import torch

from e2ed2.data.captions import read_captions
from e2ed2.data.image_set import FileImages
from e2ed2.data.sources.folder import list_images
from e2ed2.evaluation.asked import Asked, Protocol, RealImages
from e2ed2.evaluation.metrics.table import check_counts
from e2ed2.evaluation.reference_batch import read_batch
from e2ed2.recipe.fields import Count
from e2ed2.system.errors import UserError
from e2ed2.system.readers.typed import Part, checked
from e2ed2.system.readers.yaml_file import read_yaml
from e2ed2.system.watch import Watch


class Prompts(Part):
    """Where the captions come from.

    Attributes:
        path: of `data.captions`: a file of captions, or a folder of captioned images.
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


class Classes(Part):
    """All classes of a model, by their numbers from 0."""

    num: Count
    samples_per_class: Count


class Batch(Part):
    """A reference batch; `source`: where its file is to be had."""

    path: Path
    source: str = "it again"


class ClassProtocol(Protocol):
    """As many samples of each class, and a reference batch (`reference_batch.py`)."""

    classes: Classes
    reference: Batch

    @property
    def default_num_images(self) -> int:
        return self.classes.num * self.classes.samples_per_class

    def load(self, name: str, num_images: int | None, data: Path | None, watch: Watch) -> Asked:
        num, wanted = self.classes.num, self.default_num_images if num_images is None else num_images
        if wanted % num or not wanted:
            raise UserError(f"--num-images {wanted}: give a multiple of {num}, as many of each class")
        each = wanted // num
        path = _resolve(self.reference.path, name, data)
        images, statistics = read_batch(path, self.images.size, self.reference.source)
        notes = check_counts(self.metrics, {"samples": wanted, "reference": len(images)}, each)
        prompts = [str(number) for number in range(num) for _ in range(each)]
        real = {"reference": RealImages(images, statistics=statistics)}
        reference = f"{len(images)} real images, and statistics of the whole set, of {path.name}"
        return Asked(name, self, prompts, each, real, reference, self.metrics, notes, of_classes=True)


# The section by which a file is known -> its kind, the first one where there is none; and where those lie that ship.
KINDS: dict[str, type[Protocol]] = {"prompts": FileProtocol, "classes": ClassProtocol}
FOLDERS = [Path(__file__).parent / "assets"]


def protocol_names() -> list[str]:
    """Those that ship."""
    return sorted(path.stem for folder in FOLDERS for path in folder.glob("*.yaml"))


def read_protocol(name: str) -> Protocol:
    """A shipped protocol by name, or a YAML file; from then on its plug-ins are found in its folder.

    Raises:
        UserError: no such protocol, unreadable file, unknown field, wrong type.
    """
    path = next((p for folder in FOLDERS if (p := folder / f"{name}.yaml").is_file()), Path(name))
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"protocol '{name}' is unknown: choose {', '.join(protocol_names())}, or give a .yaml file")
    values = read_yaml(path, "protocol", FOLDERS[0])
    if (beside := str(path.parent.absolute())) not in sys.path:
        sys.path.append(beside)  # a plug-in metric may lie there
    section = next((s for s in KINDS if isinstance(values, dict) and s in values), next(iter(KINDS)))
    return checked(KINDS[section], values, f"protocol {path}")


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
        UserError: as `read_captions`, or fewer than the protocol asks.
    """
    captions = read_captions(path, "prompts")
    if len(captions) < prompts.num:
        raise UserError(f"prompts {path}: {len(captions)} captions, but the protocol asks {prompts.num}")
    if prompts.draw_seed is not None:
        generator = torch.Generator().manual_seed(prompts.draw_seed)
        return [captions[i] for i in torch.randperm(len(captions), generator=generator)[: prompts.num].tolist()]
    return captions[: prompts.num]
