"""Setting a study up: images of two or more models, matched by prompt and seed, and a folder that `serve` reads."""

import csv
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from argon2 import PasswordHasher

from e2ed2.evaluation.protocols import read_protocol
from e2ed2.models.folders.bundled import resolve_model
from e2ed2.sampling.baselines import read_baseline
from e2ed2.sampling.finished_images import refuse_marked
from e2ed2.sampling.folder import MANIFEST_FILE, make_files, read_manifest
from e2ed2.sampling.model import load_model
from e2ed2.study.design import LEAST_PROMPTS, Design, design_study
from e2ed2.study.folder import PICTURES, STUDY_FILE, PromptRow, Secret, write_study
from e2ed2.study.pictures import common_size, read_fitted, spoiled, write_alike
from e2ed2.system.errors import UserError, check_range
from e2ed2.system.readers.text import read_text
from e2ed2.system.watch import Watch, silent

PROMPTS, RATERS = 300, 10  # the paper's
MOST_MODELS, MOST_RATERS, MOST_PROMPTS = 8, 1000, 5000

Images = dict[str, dict[object, Path]]  # prompt -> seed, or its place among the prompt's images -> file


@dataclass(frozen=True)
class Source:
    """The images of one model by prompt and seed."""

    name: str
    images: Images


def create_study(
    models: Sequence[str],
    out: Path,
    *,
    num_prompts: int | None = None,
    groups: dict[str, int],
    seed: int = 0,
    protocol: str = "emoji",
    categories: Path | None = None,
    watch: Watch = silent,
) -> str:
    """Set up a study in the folder `out`; returns the organiser's password, which is stored as a hash alone.

    Args:
        models: folders that `evaluate --out` or `sample` wrote, or models, which are then sampled in `out/samples`.
        num_prompts: None for all that the models share, at most `PROMPTS`.
        groups: of raters, with how many. seed: fixes prompts, pairs, orders and sides.
        protocol: whose prompts models are asked. categories: CSV file of columns `prompt`, `category`.
    Raises:
        UserError: a study is there already, prompts or seeds do not match, an unreadable image, a number out of range.
    """
    if (out / STUDY_FILE).exists():
        raise UserError(f"--out {out}: holds a study already, which stays; name another folder")
    if len(models) < 2 or len(models) > MOST_MODELS:
        raise UserError(f"{len(models)} models: compare 2 to {MOST_MODELS}")
    check_range("--num-prompts", PROMPTS if num_prompts is None else num_prompts, LEAST_PROMPTS, MOST_PROMPTS)
    check_range("--num-raters", sum(groups.values()), 1, MOST_RATERS)
    sources = _sources(models, out, num_prompts or PROMPTS, protocol, seed, watch)
    prompts = _drawn(_shared_prompts(sources), num_prompts, seed)
    files = [[_matched(sources, prompt)[i] for prompt in prompts] for i in range(len(sources))]
    kinds = _categories(categories)
    design = design_study(len(prompts), len(sources), sum(groups.values()), seed)
    pairs = _write_pictures(design, files, out / PICTURES, seed, watch)
    password = "-".join(secrets.token_hex(3) for _ in range(4))
    write_study(
        out, design, study_id=secrets.token_hex(16), seed=seed, models=[source.name for source in sources],
        prompts=[PromptRow(text=prompt, category=kinds.get(prompt, "")) for prompt in prompts], files=pairs,
        groups=[group for group, count in groups.items() for _ in range(count)],
        secret=Secret(password_hash=PasswordHasher().hash(password), signing_key=secrets.token_hex(32)),
    )  # fmt: skip
    return password


def _sources(
    models: Sequence[str], out: Path, num_prompts: int, protocol: str, seed: int, watch: Watch
) -> list[Source]:
    names = _names(models)
    folders = [model for model in models if (Path(model) / MANIFEST_FILE).is_file()]
    if folders and len(folders) < len(models):
        model = next(model for model in models if model not in folders)
        raise UserError(f"{model}: no folder of samples, as {folders[0]} is; give folders alone, or models alone")
    for model in () if folders else models:  # a name that is none is met before anything is sampled
        if read_baseline(model) is None:
            resolve_model(model)
    asked = None
    sources = []
    for name, model in zip(names, models, strict=True):
        folder = Path(model)
        if not folders:
            if asked is None:
                asked = read_protocol(protocol).load(protocol, None, None, watch)
            first = {request.prompt: request for request in reversed(asked.requests(0))}
            prompts = _drawn(list(dict.fromkeys(asked.prompts)), min(num_prompts, len(first)), seed)
            loaded = load_model(model)
            folder = out / "samples" / _folder_name(name)
            requests = [first[prompt] for prompt in prompts]
            make_files(loaded, requests, folder, progress=partial(watch, f"sampling {name}"))
        sources.append(Source(name, _images_of(folder)))
    return sources


def _names(models: Sequence[str]) -> list[str]:
    """What the models are called in votes and figures: as their folders, or models, told apart by their paths."""
    paths = [Path(model).parts if Path(model).exists() else (model,) for model in models]
    for depth in range(1, 1 + max(map(len, paths))):
        names = ["/".join(path[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"{models[0]}: given twice; name each model once")


def _folder_name(name: str) -> str:
    """A model's name as that of one folder, which leads nowhere else."""
    return re.sub(r"[/\\]|\.\.", "-", name)


def _images_of(folder: Path) -> Images:
    """The images of a sample folder.

    Raises:
        UserError: no manifest of ours, none of its files is there, or a mark in the pixels that others may lack.
    """
    manifest = read_manifest(folder)
    if manifest is None or not manifest.images:
        raise UserError(f"{folder}: {MANIFEST_FILE} is not from e2ed2, or names no image; see `e2ed2 evaluate --out`")
    refuse_marked(manifest, [folder / row.file for row in manifest.images], str(folder))
    images: Images = {}
    for row in manifest.images:
        of_prompt = images.setdefault(row.prompt, {})
        of_prompt[f"image {len(of_prompt)}" if row.seed is None else row.seed] = folder / row.file
    return images


def _shared_prompts(sources: Sequence[Source]) -> list[str]:
    first = sources[0]
    for other in sources[1:]:
        for one, two in ((first, other), (other, first)):
            if lost := [prompt for prompt in one.images if prompt not in two.images]:
                what = f"{len(lost)} prompts of {one.name} are not in {two.name}, as {lost[0][:60]!r}"
                raise UserError(f"{what}; evaluate both under one protocol, with the same --num-images")
    return list(first.images)


def _drawn(prompts: list[str], num_prompts: int | None, seed: int) -> list[str]:
    """Some of the prompts, in a random order: the first ones are the practice of all raters."""
    if len(prompts) < LEAST_PROMPTS or len(prompts) < (num_prompts or 0):
        raise UserError(f"--num-prompts {num_prompts or LEAST_PROMPTS}: the models share {len(prompts)} prompts")
    return Random(f"prompts {seed}").sample(prompts, num_prompts or min(PROMPTS, len(prompts)))


def _matched(sources: Sequence[Source], prompt: str) -> list[Path]:
    """One image of the prompt of each model, from the first seed that all have.

    Raises:
        UserError: no such seed.
    """
    by_seed = [source.images[prompt] for source in sources]
    for seed in by_seed[0]:
        if all(seed in images for images in by_seed[1:]):
            return [images[seed] for images in by_seed]
    raise UserError(f"prompt {prompt[:60]!r}: no image of one seed from all models; make them with the same --seed")


def _categories(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    rows = list(csv.DictReader(read_text(path, "categories").splitlines()))
    if not rows or not {"prompt", "category"} <= rows[0].keys():
        raise UserError(f"categories {path}: needs columns prompt and category, and a row for each prompt")
    return {row["prompt"]: row["category"] or "" for row in rows}


def _write_pictures(
    design: Design, files: list[list[Path]], folder: Path, seed: int, watch: Watch
) -> dict[str, tuple[str, str]]:
    """Write the pictures of all pairs; returns the two files of each.

    Args:
        files: of each model the image of each prompt.
    """
    size = common_size([path for of_model in files for path in of_model], watch)
    num_prompts = len(files[0])
    names = []
    for prompt in range(num_prompts):
        names.append(write_alike([read_fitted(of_model[prompt], size) for of_model in files], folder))
        watch("writing pictures", prompt + 1, num_prompts)
    rng, pairs = Random(f"checks {seed}"), {}
    for pair in design.pairs.values():
        if pair.kind == "check":
            whole = read_fitted(files[pair.models[0]][pair.prompt], size)
            pairs[pair.id] = write_alike([whole, spoiled(whole, rng)], folder)
        else:
            pairs[pair.id] = [names[pair.prompt][model] for model in pair.models]
    return {pair: (first, second) for pair, (first, second) in pairs.items()}
