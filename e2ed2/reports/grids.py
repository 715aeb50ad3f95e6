"""Which pictures of several models stand side by side (Figures 2, 3 and 7): same prompts and seeds."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from e2ed2.sampling.folder import read_manifest, read_png
from e2ed2.system.drawing.pictures import Zoom
from e2ed2.system.errors import UserError


def parse_zoom(text: str | None) -> Zoom | None:
    """`0.3,0.3,0.25` -> a `Zoom`."""
    if text is None:
        return None
    try:
        left, top, side = map(float, text.split(","))
    except ValueError as error:
        raise UserError(f"--zoom {text}: give LEFT,TOP,SIDE as shares of a picture, such as 0.3,0.3,0.25") from error
    return Zoom(left, top, side)


def common_samples(folders: Mapping[str, Path], num_prompts: int) -> dict[str, list[tuple[str, Tensor]]]:
    """Of each model, (prompt, uint8 [3, H, W]) for prompts and seeds that all have, evenly spaced over them.

    Args:
        folders: name -> a folder of samples; those without a manifest are left out.
    """
    files = {}
    for name, folder in folders.items():
        manifest = read_manifest(folder)
        found: dict[tuple[str, int], Path] = {}
        for row in manifest.images if manifest else []:
            # images from elsewhere have no seed: the n-th of a prompt stands for the n-th
            again = sum(prompt == row.prompt for prompt, _ in found) if row.seed is None else row.seed
            found[row.prompt, again] = folder / row.file
        if found:
            files[name] = found
    if not files:
        return {}
    first = next(iter(files.values()))
    shared = [key for key in first if all(key in own for own in files.values())]
    shared = list({prompt: (prompt, seed) for prompt, seed in reversed(shared)}.values())[::-1]  # a seed of each
    step = max(len(shared) / num_prompts, 1)
    chosen = [shared[int(i * step)] for i in range(min(num_prompts, len(shared)))]
    columns = {}
    for name, own in files.items():
        images = [(prompt, image) for prompt, seed in chosen if (image := read_png(own[prompt, seed])) is not None]
        if len(images) == len(chosen):
            columns[name] = images
    return columns
