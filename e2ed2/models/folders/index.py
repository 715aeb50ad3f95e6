"""`model_index.json`: of which class a pipeline and its components are, and which files its text encoders have."""

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from e2ed2.models.families import FAMILIES, family_named
from e2ed2.models.folders.misnamed import why_no_pipeline
from e2ed2.models.folders.parts import INDEX_FILE, REMEDY, ShardIndex, read_config
from e2ed2.system.errors import UserError
from e2ed2.system.readers.json_file import read_json, read_typed

LIBRARIES = ("diffusers", "transformers", "stable_diffusion")  # the last is a module of diffusers: the safety checker's
COMPONENT = re.compile(
    r"(text_encoder|tokenizer)(_\d)?|unet|transformer|vae|scheduler|safety_checker|feature_extractor|image_encoder"
)


@dataclass(frozen=True)
class ModelIndex:
    """class_name: of the pipeline. parts: component -> (library, class), without those left out.

    classes: names of what it draws, one of each, where a prompt is a class.
    """

    class_name: str
    parts: dict[str, tuple[str, str]]
    classes: tuple[str, ...] = ()

    @property
    def text_encoders(self) -> list[str]:
        return [name for name in self.parts if name.startswith("text_encoder")]


def read_index(folder: Path, *, any_class: bool = False) -> ModelIndex:
    """What a model folder says it holds.

    Args:
        any_class: whether the pipeline may be of a class that is not in `FAMILIES`.
    Raises:
        UserError: not a pipeline, one of an unknown class, or a component that is no pair of names or is missing.
    """
    path = folder / INDEX_FILE
    if not path.is_file():
        raise UserError(f"model {folder}: not a loadable model folder: {why_no_pipeline(folder)}")
    values = read_json(path, "model file", REMEDY)
    if not isinstance(values, dict) or "_class_name" not in values:
        raise UserError(f"model {folder}: not a loadable model folder ({INDEX_FILE} has no _class_name)")
    class_name = values["_class_name"]
    is_other = any_class and isinstance(class_name, str) and class_name not in FAMILIES
    family = None if is_other else family_named(class_name)
    parts = {}
    for name, pair in values.items():
        is_component = isinstance(pair, list) or COMPONENT.fullmatch(name)  # else an argument of the pipeline's own
        if name.startswith("_") or not is_component or pair == [None, None]:
            continue
        is_pair = isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair)
        if not (is_pair and (pair[0] in LIBRARIES or (is_other and _is_of_diffusers(pair[0])))):
            allowed = f"a pair of library ({', '.join(LIBRARIES)}) and class"
            raise UserError(f"model file {path}: {name}: must be {allowed}, found {json.dumps(pair)[:80]}")
        parts[name] = (pair[0], pair[1])
    for name in () if family is None else (family.network, *family.needs):
        if name not in parts:
            raise UserError(f"model file {path}: {name} is missing, which a {class_name} needs")
    names = values.get("id2label") if family is not None and family.has_classes else None
    classes = [str(text).split(",")[0].strip() for text in names.values()] if isinstance(names, dict) else []
    return ModelIndex(class_name, parts, tuple(dict.fromkeys(classes)))


def _is_of_diffusers(library: str) -> bool:
    """Whether diffusers has a package of pipelines of this name, with parts that only those have."""
    import diffusers

    package = Path(diffusers.__file__).parent / "pipelines" / library
    return library.isidentifier() and (package / "__init__.py").is_file()


def text_files(folder: Path, variant: str | None) -> list[Path]:
    """Weights and configs of a model folder's text encoders, as they are loaded.

    Raises:
        UserError: a file that is missing, or a damaged one that is no tensors'.
    """
    found = []
    for part in read_index(folder).text_encoders:
        weights = sorted((folder / part).glob("model*.safetensors*"))
        of_variant = [path for path in weights if variant and f".{variant}" in path.name]
        plain = [p for p in weights if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?", p.name)]
        read_config(folder / part / "config.json")
        for path in (chosen := of_variant or plain):
            if path.suffix == ".json":
                read_typed(path, ShardIndex, "model file", REMEDY)
        if not chosen:
            raise UserError(f"model {folder}: {part} has no safetensors of its own; {REMEDY}")
        found += [folder / part / "config.json", *chosen]
    return found


def copy_text_encoders(start: Path, variant: str | None, folder: Path) -> None:
    """The text encoders of `start` into a pipeline folder that was saved without, their precision kept."""
    mark = f".{variant}" if variant else ""
    for path in text_files(start, variant):
        target = folder / path.parent.name / (path.name.replace(mark, "") if mark else path.name)
        target.parent.mkdir(exist_ok=True)
        if path.name != "config.json" and path.suffix == ".json" and mark:
            shards = read_typed(path, ShardIndex, "model file", REMEDY)
            plain = {name: file.replace(mark, "") for name, file in shards.weight_map.items()}
            target.write_text(json.dumps(shards.model_dump() | {"weight_map": plain}, indent=2) + "\n")
        else:
            shutil.copyfile(path, target)
    index, listed = (read_json(at / INDEX_FILE, "model file", REMEDY) for at in (folder, start))
    index |= {name: listed[name] for name in read_index(start).text_encoders}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def forget_origin(folder: Path) -> None:
    """Remove from the configs what diffusers notes there: where on this machine the weights were loaded from."""
    for path in [*folder.rglob("*config.json"), *folder.rglob(INDEX_FILE)]:
        config = read_json(path, "model file", REMEDY)
        if isinstance(config, dict) and config.pop("_name_or_path", None):
            path.write_text(json.dumps(config, indent=2) + "\n")


def model_sha256(folder: Path) -> str:
    """Hex digest over weights, scheduler and `inference.json`, equal wherever the folder lies.

    Other settings do not count: diffusers writes paths into them, and the tokenizer its last call.
    """
    digest = hashlib.sha256()
    settings = [folder / "scheduler" / "scheduler_config.json", folder / "inference.json"]
    for path in sorted([*folder.rglob("*.safetensors"), *(path for path in settings if path.exists())]):
        digest.update(str(path.relative_to(folder)).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
