"""What lies where a model was named and is none: a run, a file, a part of a model; and where the model itself is."""

import shlex
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from e2ed2.models.folders.parts import INDEX_FILE
from e2ed2.system.errors import UserError

RUN_CONFIG = "config.yaml"
RUN_FILES = ("environment.json", "metrics.jsonl", "checkpoints")  # any of them beside it: a training's folder
GGUF = ".gguf"
ONE_FILE = {".safetensors", ".ckpt", ".pt", ".pth", ".bin", GGUF}
NUM_SHOWN = 3


def is_one_file(path: Path) -> bool:
    """Whether a path is a safetensors file that lies by itself, neither in a model folder nor in a training's."""
    is_file = path.is_file() and path.suffix == ".safetensors"
    return is_file and _around(path) is None and run_of(path.parent) is None


def refuse_file(path: Path) -> None:
    """Raise UserError on a file in a model's place, with how to get a folder.

    Args:
        path: exists, and is no folder.
    """
    if (of := _around(path)) is not None:
        raise UserError(f"model '{path}': a file of the model folder {of}: give that folder")
    if (run := run_of(path.parent)) is not None:
        raise UserError(f"model '{path}': a file of a training run; {_model_of(run)}")
    if path.suffix in ONE_FILE:
        raise UserError(f"model '{path}': {one_file_checkpoint(path)}")
    raise UserError(f"model '{path}': a file; give a model folder, its {INDEX_FILE} in it")


def refuse_run(path: Path) -> None:
    """Raise UserError where a folder is a training's, its checkpoints', or one of several: models are elsewhere."""
    if (path / INDEX_FILE).is_file():
        return
    if (run := run_of(path)) is not None:
        what = "a run folder" if run == path else "not a model but what a run resumes from"
        raise UserError(f"model '{path}': {what}; {_model_of(run)}")
    if runs := sorted(file.parent for file in _files(path, RUN_CONFIG) if _is_run(file.parent)):
        models = [str(run / "model") for run in runs if (run / "model").is_dir()]
        others = f" and {len(models) - NUM_SHOWN} more" if len(models) > NUM_SHOWN else ""
        where = f"their models are {', '.join(models[:NUM_SHOWN])}{others}" if models else _model_of(runs[0])
        raise UserError(f"model '{path}': a folder of runs; {where}")


def why_no_pipeline(folder: Path) -> str:
    """What a folder without an index is, with the remedy."""
    if (of := _around(folder)) is not None:
        return f"a part of the model folder {of}: give that folder"
    if (folder / "config.json").is_file():
        return f"a network alone (no {INDEX_FILE}): give the folder of its pipeline"
    if files := sorted(p for p in _entries(folder) if p.suffix == ".safetensors"):
        whole = "give that file, if a whole model is in it; a network goes to model.network, an adapter to model.lora"
        return f"no {INDEX_FILE}, but {files[0].name}: {whole}"
    if files := sorted(p for p in _entries(folder) if p.suffix == ".ckpt"):
        return f"no {INDEX_FILE}, but {files[0].name}: {one_file_checkpoint(files[0])}"
    inside = sorted({str(file.parent) for file in _files(folder, INDEX_FILE)})[:NUM_SHOWN]
    return f"no {INDEX_FILE}; give one of a pipeline{', such as ' + ', '.join(inside) if inside else ''}"


def one_file_checkpoint(path: Path) -> str:
    """What can be done with weights in one file that is no safetensors."""
    if path.suffix == GGUF:
        return "a network alone: give the model that it is of as model.path, and this as model.network"
    target = path.with_suffix("")
    target = target.with_name(f"{target.name}-model") if target.exists() else target
    code = (
        "from diffusers import StableDiffusionPipeline as P; "
        f"P.from_single_file({str(path)!r}).save_pretrained({str(target)!r})"
    )
    trust = " (such a file may run code when loaded: only of those you trust)"
    quoted = shlex.quote(code) if set('"$`\\!') & set(code) else f'"{code}"'
    return (
        f"a file, not a model folder, and not safetensors. Of a whole model in one file make a folder by `python -c "
        f"{quoted}` with the model's own pipeline class{trust}"
    )


def run_of(path: Path) -> Path | None:
    """The run folder that `path` is, or whose `checkpoints` it is or is one of."""
    if _is_run(path):
        return path
    for folder in (path, path.parent, path.absolute(), path.absolute().parent):
        if folder.name == "checkpoints" and _is_run(folder.parent):
            return folder.parent
    return None


def _is_run(path: Path) -> bool:
    return (path / RUN_CONFIG).is_file() and any((path / name).exists() for name in RUN_FILES)


def _model_of(run: Path) -> str:
    """Where the model of a run is, or how to get one."""
    if (model := run / "model").is_dir():
        return f"its model is {model}"
    best = f"; the best so far is {run / 'best'}" if (run / "best" / INDEX_FILE).is_file() else ""
    config = shlex.quote(str(run / RUN_CONFIG))
    return f"{run} is not finished and has no model yet: `e2ed2 train {config}` goes on to {model}{best}"


def _around(path: Path) -> Path | None:
    """The model folder that a file or a component lies in."""
    places = (path.parent, path.parent.parent, *list(path.absolute().parents)[:2])
    return next((folder for folder in places if (folder / INDEX_FILE).is_file()), None)


def _files(path: Path, name: str) -> Iterable[Path]:
    """Those of a name one or two folders down."""
    return islice((file for pattern in (f"*/{name}", f"*/*/{name}") for file in path.glob(pattern)), 1000)


def _entries(path: Path) -> list[Path]:
    try:
        return list(path.iterdir())
    except OSError:
        return []
