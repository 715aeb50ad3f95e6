"""A folder of images in place of a model: which files they are, and which prompt each is of."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from e2ed2.data.sources.folder import list_images
from e2ed2.models.folders.misnamed import refuse_run
from e2ed2.models.folders.parts import INDEX_FILE
from e2ed2.sampling.folder import MAKER, Manifest, ManifestRow, read_manifest, write_manifest
from e2ed2.system.errors import UserError

MARKED = re.compile(r"watermark from (\d+) px")  # of a manifest's labels


def finished_images(model: str) -> Path | None:
    """Where the images of a folder lie that is no model; None where it is one, or no folder.

    Raises:
        UserError: a run's folder, whose previews are no samples.
    """
    path = Path(model)
    if not path.is_dir() or (path / INDEX_FILE).exists():
        return None
    refuse_run(path)
    if (path / "config.json").is_file() and any(path.glob("*.safetensors")):  # a network
        return None
    return path / "images" if (path / "images").is_dir() else path


def images_of_prompts(model: str, folder: Path, prompts: list[str]) -> list[Path]:
    """One image for each prompt: those of our manifest, where there is one, else all of the folder by their paths.

    Args:
        model: as it was given; folder: where its images lie.
    Raises:
        UserError: another number of images, one of our own that is missing, of another prompt, or with a mark in its
            pixels.
    """
    home = folder.parent if folder.name == "images" else folder
    manifest = read_manifest(home)
    rows = manifest.images if manifest else []
    files = [home / row.file for row in rows] or list_images(folder, "samples")
    if len(files) != len(prompts):
        counts = f"{len(files)} images, but the protocol asks {len(prompts)}"
        raise UserError(f"model {model}: {counts}, one for each prompt in order; see --num-images")
    for file, row, prompt in zip(files, rows, prompts, strict=False):  # no rows where there is no manifest
        if row.prompt != prompt:
            what = f"{file.name} is of {row.prompt!r}, but the protocol asks {prompt!r} there"
            raise UserError(f"model {model}: {what}; give images of its prompts")
        if not os.path.isfile(file):  # False too where no file can have such a name
            raise UserError(f"model {model}: {file.name} of its manifest.json is missing; make the images again")
    refuse_marked(manifest, files, f"model {model}")
    return files


def refuse_marked(manifest: Manifest | None, files: Sequence[Path], where: str) -> None:
    """Raise UserError where images of a sample folder bear a mark in their pixels, which nobody asks to be judged."""
    labels = manifest.labels if manifest and manifest.labels else []
    least = min((int(found[1]) for found in map(MARKED.match, labels) if found), default=None)
    if least is not None and any(_least_side(file) >= least for file in files):
        raise UserError(f"{where}: a watermark is in its images and would be judged too; make them with --no-label")


def name_images(out: Path, model: str, files: list[Path], prompts: list[str]) -> None:
    """Write the manifest of images that lie elsewhere."""
    rows = [ManifestRow(file=str(f.resolve()), prompt=p) for f, p in zip(files, prompts, strict=True)]
    write_manifest(out, Manifest(made_by=MAKER, model=model, images=rows))


def _least_side(path: Path) -> int:
    """In pixels; 0 where the file is no image, which is told when it is read."""
    try:
        with Image.open(path) as picture:
            return min(picture.size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 0
