"""`e2ed2 finetune`: choose, train, and show start and result side by side.

What is there already (checkpoints, samples) is used again, so that an interrupted run goes on where it stopped.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from e2ed2.data.batch import RawItem
from e2ed2.data.cache import CachedSet
from e2ed2.finetune.choice import Choice, choose
from e2ed2.finetune.data import data_fields
from e2ed2.finetune.shown import measure
from e2ed2.finetune.starts import Start, find_start
from e2ed2.recipe.config import Config
from e2ed2.recipe.data import DataConfig
from e2ed2.recipe.load import config_of
from e2ed2.reports.run_page import write_report
from e2ed2.system.errors import UserError, check_range
from e2ed2.system.readers.yaml_file import parse_yaml
from e2ed2.system.watch import Watch, silent
from e2ed2.training.loop import Say, Tick, train
from e2ed2.training.run_folder import recorded_config

MOST_READ = 5000  # items whose captions are looked at; a table reads them whole


def plan_finetune(
    model: str, data: str, out: Path, steps: int | None, prompt: str | None, overrides: Sequence[str]
) -> tuple[Start, Config, list[str]]:
    """The start, the recipe, and a line for each thing that was chosen.

    A run that was begun keeps what was chosen then: a machine with more memory does not change it.

    Args:
        steps: of the sampler, in place of the start's own. prompt: the caption of images that have none.
        overrides: `field.path=value`.
    Raises:
        UserError: as `starts.find_start`, `data.data_fields` and `recipe.load.config_of`.
    """
    if any(override.startswith("run.dir=") for override in overrides):
        raise UserError("run.dir: finetune writes to --out; give that instead")
    if steps is not None:
        check_range("--steps", steps, 1, 50)
    fields: dict[str, Any] = {**data_fields(data), **({"default_caption": prompt} if prompt else {})}
    start = find_start(model, _of_section("model", overrides), steps)
    recorded = recorded_config(out)
    if recorded:
        return start, config_of({**recorded, "run": {"dir": str(out)}}, overrides), []
    choice: Choice = choose(start, fields, _captions(fields), out)
    return start, config_of(choice.values, overrides), choice.reasons


def finetune(
    start: Start, config: Config, *, say: Say = print, watch: Watch = silent, tick: Tick = lambda step, steps, row: None
) -> Path:
    """Train by the recipe, measure start and result, write the report; returns the model folder.

    Raises:
        UserError: something the user can mend. KeyboardInterrupt: what was done is saved.
    """
    watch("preparing the training", 0, 0)
    model = train(config, say, tick, watch)
    write_report(config.run.dir, measure(start, config, model, say, watch))
    return model


def _of_section(section: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The fields of a recipe's section that overrides set; anything wrong in them is told when all are applied."""
    found: dict[str, Any] = {}
    for override in overrides:
        name, _, text = override.partition("=")
        if name.startswith(f"{section}."):
            with suppress(ValueError):
                found[name.removeprefix(f"{section}.")] = parse_yaml(text)
    return found


def _captions(fields: dict[str, Any]) -> Captions:
    """What is known of the captions of the data, with no image decoded.

    Raises:
        UserError: there are no images, or they cannot be listed.
    """
    (opened,) = open_sources(DataConfig(**fields))
    if isinstance(opened, CachedSet):
        return captions_of(opened.first_captions())
    if not isinstance(opened, tuple):  # a stream
        return Captions()
    _, source = opened
    return captions_of([item.captions[0] for item in map(source.__getitem__, range(min(len(source), MOST_READ)))
                        if isinstance(item, RawItem)])  # fmt: skip
