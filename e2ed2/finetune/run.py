"""`e2ed2 finetune`: choose, train, and show start and result side by side.

What is there already (checkpoints, samples) is used again, so that an interrupted run goes on where it stopped.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from e2ed2.data.cache import CachedSet
from e2ed2.data.items import RawItem
from e2ed2.finetune.choice import FEW_IMAGES, Captions, captions_of, choose
from e2ed2.finetune.data import data_fields
from e2ed2.finetune.shown import shown
from e2ed2.finetune.starts import find_start, model_config
from e2ed2.recipe.config import Config
from e2ed2.recipe.data import DataConfig
from e2ed2.recipe.load import apply_override, config_of, flatten, refuse_run_dir
from e2ed2.reports.run_page import write_report
from e2ed2.sampling.label import UNLABELLED, Label
from e2ed2.system.errors import UserError, check_range
from e2ed2.system.processes import process_state
from e2ed2.system.readers.typed import checked
from e2ed2.system.watch import Watch, silent
from e2ed2.training.journal.journal import journal
from e2ed2.training.latents.training_set import open_sources
from e2ed2.training.loop import Say, Tick, train
from e2ed2.training.run_folder import claimed, exported_step, recorded_config

MOST_READ = 5000  # items whose captions are looked at; a table reads them whole
MOST_STEPS = 50


@dataclass(frozen=True)
class Finetune:
    """A recipe that moves a few-step model to images, and a line for each thing that was chosen in it."""

    config: Config
    reasons: list[str]


def choose_finetune(
    model: str,
    data: str,
    out: Path,
    *,
    steps: int | None = None,
    prompt: str | None = None,
    overrides: Sequence[str] = (),
) -> Finetune:
    """The recipe for a start and a user's images; a run that was begun keeps what was chosen then.

    Args:
        model: a folder, hub id, bundled model or baseline name. data: as in `data.data_fields`. out: the run folder.
        steps: of the sampler, in place of the start's own. prompt: the caption of images that have none.
        overrides: `field.path=value`, which count more than what is chosen.
    Raises:
        UserError: a start or data that are not there, or are not what they should be; a run of another start or of
            other data in `out`.
    """
    refuse_run_dir(overrides)
    if steps is not None:
        check_range("--steps", steps, 1, MOST_STEPS)
    if prompt is not None and not prompt.strip():
        raise UserError("--prompt: is empty; say what the images show, such as 'a photo of sks dog'")
    fields: dict[str, Any] = data_fields(data)
    fields |= {} if prompt is None else {"default_caption": " ".join(prompt.split())}
    recorded = recorded_config(out)
    if recorded:
        path = model_config(model, _of_section("model", overrides)).path
        before, given = flatten(recorded), flatten({"model": {"path": path}, "data": fields})
        given |= {} if steps is None else {"trajectory.num_inference_steps": steps}
        for name, value in given.items():
            if not _is_same(before.get(name), value):
                raise UserError(
                    f"--out {out}: holds a run with {name}={before.get(name)}, not {value}; give another folder"
                )
        return Finetune(config_of({**recorded, "run": {"dir": str(out)}}, overrides), [])
    trajectory = _of_section("trajectory", overrides)
    start = find_start(model, _of_section("model", overrides), steps or trajectory.get("num_inference_steps"))
    data_asked = _of_section("data", overrides)
    if isinstance(size := data_asked.get("size"), int):
        start = replace(start, side=size)  # by which batch and crop are chosen
    captions = _captions({**fields, **data_asked})
    if captions.images == 0 and prompt is None:
        raise UserError(
            f"DATA '{data}': none of its images has a caption; put name.txt beside name.jpg, or give one for all: "
            "--prompt 'a photo of sks dog'"
        )
    choice = choose(start, fields, captions, out, trajectory)
    if captions.images is not None and captions.images < FEW_IMAGES:
        few = f"{captions.images} image{'s' if captions.images > 1 else ''}"
        choice.reasons.append(f"note: {few}; with fewer than {FEW_IMAGES} a model learns these very pictures")
    return Finetune(config_of(choice.values, overrides), choice.reasons)


def finetune(
    config: Config,
    *,
    say: Say = print,
    watch: Watch = silent,
    tick: Tick = lambda step, steps, row: None,
    label: Label = UNLABELLED,
) -> Path:
    """Train by the recipe, measure start and result, write the report; returns the model folder.

    Args:
        label: of the samples that are measured, which leaves their pixels alone.
    Raises:
        UserError: something the user can mend. KeyboardInterrupt: what was done is saved.
    """
    watch("preparing the training", 0, 0)
    model = train(config, say, tick, watch, write_report)
    if process_state().is_main_process:
        step = exported_step(model) or 0
        with claimed(config.run.dir, True), journal(config, write_report, say, "measuring", step=step):
            found = shown(config, model, label, watch)
        write_report(config.run.dir, found)
    return model


def _is_same(before: Any, value: Any) -> bool:
    """Whether two values of a field are one, as `images` and `images/` are."""
    if isinstance(before, str) and isinstance(value, str) and "://" not in value:
        return os.path.normpath(before) == os.path.normpath(value)
    return before == value


def _of_section(section: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The fields of a recipe's section that overrides set."""
    values: dict[str, Any] = {section: {}}
    for override in overrides:
        if override.startswith(f"{section}."):
            apply_override(values, override)
    return values[section]


def _captions(fields: dict[str, Any]) -> Captions:
    """What is known of the captions of the data, with no image decoded.

    Raises:
        UserError: there are no images, or they cannot be listed.
    """
    sources = open_sources(checked(DataConfig, fields, "data"))
    opened = sources[0] if len(sources) == 1 else None
    if isinstance(opened, CachedSet):
        return captions_of(opened.first_captions())
    if not isinstance(opened, tuple):  # a stream, or not one source
        return Captions()
    where, source = opened
    if not len(source):
        what = f"none of its {len(source.skipped)} images is usable: {source.skipped[0]}"
        raise UserError(f"DATA '{where}': {what}; --prompt gives a caption to all that have none")
    items = [source[row] for row in range(min(len(source), MOST_READ))]
    return captions_of([item.captions[0] for item in items if isinstance(item, RawItem)])
