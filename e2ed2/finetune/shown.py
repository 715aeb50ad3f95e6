"""Start and result side by side: on the data's captions, and on prompts outside them, which should stay as they were.

Both are protocols like any other, `RUN/evaluation/new.yaml` and `old.yaml`. Samples of the first are compared with
the images trained on; those of the second with the start's own of the same prompts from other noise, so that a model
that has lost nothing is as near to them as the start is.
"""

import json
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml

from e2ed2.data.batch import Picture
from e2ed2.data.cache import CachedSet
from e2ed2.evaluation.metrics.table import metric_of
from e2ed2.finetune.near_copies import NUM_COPIED, kept_by_autoencoder, near_copies
from e2ed2.recipe.config import Config
from e2ed2.reports.comparisons import changes_of, first_of_each, measured_row, sheet_of, table_of
from e2ed2.sampling.folder import make_files, read_images, requests_for, save_images
from e2ed2.sampling.label import Label
from e2ed2.sampling.model import load_model
from e2ed2.system.files import atomic_folder, write_file
from e2ed2.system.watch import Watch
from e2ed2.training.latents.training_set import load_training_set
from e2ed2.training.stages.keep import kept_prompts
from e2ed2.training.stages.start import export_start

NUM_PROMPTS, NUM_SAMPLES = 96, 2  # of each protocol, and of each of its prompts
NUM_SHOWN = 10  # captions on the page
MOST_IMAGES = 1000  # of the data that samples are compared with
OTHER_SEED = 5_000_000  # of the start's samples that all are compared with
NETWORK, METRICS = "efficientnet", ["kernel_distance", "recall", "sharpness"]
LEAST_IMAGES = max(metric_of(name).least for name in METRICS)  # of samples and of what they are compared with
HEADLINE = ("kernel_distance", "sharpness")
Rows = list[dict[str, Any]]
TEXT = (
    "The sampler that the model is used with was trained on the images, from noise to finished image, so that it still "
    "takes its few steps. Start and result answer the same prompts from the same noise."
)
UNSEEN = " Nothing is shown of your own captions: the data are latents, or images of other shapes."
ABOUT = {  # title and text of a table
    "new": ("On your captions", "Compared with your images, which were trained on."),
    "old": (
        "On prompts outside your data",
        "None of them was sampled in the training. Compared with the start's own samples from other noise: what is as "
        "near to them as the start lost nothing.",
    ),
}


def shown(config: Config, model: Path, label: Label, watch: Watch) -> dict[str, Any]:
    """What the run's page says beside the training: pictures and, where their network is installed, figures.

    Args:
        model: the trained one. label: of samples, which with figures are kept in `evaluation/` of the run; the rows in
            `metrics.json`.
    Returns:
        As `reports.run_page.NO_COMPARISON`.
    """
    folder, trajectory = config.run.dir / "evaluation", config.trajectory
    most = trajectory.num_inference_steps
    steps = [most, 1] if trajectory.random_num_steps and most > 1 else [most]
    start = folder / "start"
    if not start.is_dir():
        watch("saving the start", 0, 0)
        with atomic_folder(start) as temporary:
            export_start(config, temporary)
    models = {"start": start, "finetuned": model}
    pictures = _pictures(config, folder / "data", watch)
    prompts = {"new": _some([picture.captions[0] for picture in pictures]), "old": _some(kept_prompts(config)[1])}
    _samples(start, None, prompts["old"], OTHER_SEED, folder / "again", label, watch)  # from noise that no row has
    references = {"new": folder / "data" / "images", "old": folder / "again" / "images"}
    num_real = {"new": len(pictures), "old": NUM_SAMPLES * len(prompts["old"])}
    rows: dict[str, Rows] = {}
    for kind, asked in prompts.items():
        outs = {(k, name): folder / kind / f"{name}-{k}" for k in steps for name in models}
        if min(num_real[kind], NUM_SAMPLES * len(asked)) < LEAST_IMAGES:  # pictures alone
            for (k, name), out in outs.items():
                _samples(models[name], k, asked, 0, out, label, watch)
            continue
        protocol = _protocol(folder / f"{kind}.yaml", asked, references[kind])
        rows[kind] = [
            measured_row(name, str(models[name]), str(protocol), steps=k, out=out, watch=watch, label=label)
            for (k, name), out in outs.items()
        ]
    table = [row for kind in rows.values() for row in kind]
    write_file(config.run.dir / "metrics.json", (json.dumps(table, indent=1) + "\n").encode())
    watch("looking for copies of training images", 0, 0)
    return {
        "headline": {"title": f"{config.model.path}, moved to new images", "text": TEXT + ("" if pictures else UNSEEN)},
        "made_by": "e2ed2 finetune",
        "changes": [change for kind in ("new", "old") for change in _changes(kind, rows.get(kind, []))],
        "sheets": _sheets(folder, pictures, steps, _copied(folder / "new" / f"finetuned-{most}", pictures, start)),
        "tables": [table_of(*ABOUT[kind], rows[kind], "finetuned") for kind in rows],
    }


def _pictures(config: Config, out: Path, watch: Watch) -> list[Picture]:
    """Images of the data, evenly over it, which are also written to `out`; none of a cache, nor of other shapes."""
    data = load_training_set(config.data, lambda line: None, partial(watch, "reading data"))
    if isinstance(data, CachedSet):
        return []
    pictures = [p for p in data.preview(MOST_IMAGES) if p.image.shape[-2:] == (data.size, data.size)]
    if not pictures:
        return []
    save_images(out, "data", torch.stack([p.image for p in pictures]), [p.captions[0] for p in pictures])
    return pictures


def _samples(
    model: Path, steps: int | None, prompts: list[str], seed: int, out: Path, label: Label, watch: Watch
) -> None:
    """Samples of prompts in `out`; nothing of none."""
    if prompts:
        requests = requests_for(prompts, NUM_SAMPLES, seed)
        progress = partial(watch, f"sampling {model.name}")
        make_files(load_model(str(model), steps), requests, out, progress=progress, label=label)


def _protocol(path: Path, prompts: list[str], reference: Path) -> Path:
    """A protocol over files, in `path`; without the network that pip has only pixels are measured."""
    has_network = find_spec("efficientnet_lite_pytorch") is not None
    texts = path.with_suffix(".txt")
    values = {
        "prompts": {"path": texts.name, "num": len(prompts), "samples_per_prompt": NUM_SAMPLES},
        "reference": {"path": str(reference.relative_to(path.parent))},
        "networks": {"features": NETWORK},
        "metrics": METRICS if has_network else ["sharpness"],
    }
    write_file(texts, "".join(f"{prompt}\n" for prompt in prompts).encode())
    write_file(path, yaml.safe_dump(values, sort_keys=False).encode())
    return path


def _some(prompts: list[str]) -> list[str]:
    """At most `NUM_PROMPTS` different ones, evenly."""
    different = list(dict.fromkeys(prompts))
    count = min(NUM_PROMPTS, len(different))
    return [different[i * len(different) // count] for i in range(count)]


def _changes(kind: str, rows: Rows) -> list[dict[str, Any]]:
    """What changed at the start's own number of steps."""
    before, after = (next((r for r in rows if (r["model"], r["nfe"]) == (name, rows[0]["nfe"])), None)
                     for name in ("start", "finetuned"))  # fmt: skip
    if before is None or after is None:
        return []
    names = [name for name in HEADLINE if name in before["metrics"]]
    return changes_of(names, before, after, ABOUT[kind][0].lower())


def _sheets(folder: Path, pictures: list[Picture], steps: list[int], copied: str) -> list[dict[str, Any]]:
    """Pictures side by side: of the data's captions, beside a real image, and of general prompts."""
    real = {picture.captions[0]: picture.image for picture in reversed(pictures)}
    sheets = []
    for kind, text in (("new", f"Evenly over your captions, not a selection. {copied}"), ("old", "Not a selection.")):
        columns = {"real": real} if kind == "new" else {}
        for k in steps:
            for label in ("start", "finetuned"):
                head = f"{label}, {k} steps" if k > 1 else f"{label}, 1 step"
                columns[head] = first_of_each(folder / kind / f"{label}-{k}")
        sheets.append(sheet_of(f"Side by side: {ABOUT[kind][0].lower()}", text, columns, NUM_SHOWN))
    return [sheet for sheet in sheets if sheet["rows"]]


def _copied(samples: Path, pictures: list[Picture], start: Path) -> str:
    """How many samples are copies of training images, in words."""
    made = [image for _, image in read_images(samples)] if samples.is_dir() else []
    if len(pictures) < 2 or not made:
        return ""
    images = torch.stack([picture.image for picture in pictures])
    found = near_copies(torch.stack(made), images, kept_by_autoencoder(start, images[:NUM_COPIED]))
    return (
        f"{int(found.is_copy.sum())} of {len(made)} samples are near copies of one of {len(images)} training images. "
        f"The line finds {found.found:.0%} of the autoencoder's copies, and takes {found.false:.0%} of other images "
        "for one."
    )
