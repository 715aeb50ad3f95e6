"""A recipe file -> `Config`: overrides, one line for every mistake, and what may change when a run is resumed."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from e2ed2.recipe.chain_checks import check_coupling, check_grids, check_trajectory
from e2ed2.recipe.checks import (
    check_class_batches,
    check_data,
    check_evaluation,
    check_sets,
    check_start,
    check_unread,
)
from e2ed2.recipe.config import Config, EvaluationConfig, objective_weights
from e2ed2.recipe.data import SourceConfig
from e2ed2.recipe.objective import SCORING_RULES, TERMS
from e2ed2.recipe.shipped import recipe_file
from e2ed2.system.errors import UserError
from e2ed2.system.readers.typed import MAX_SHOWN, M
from e2ed2.system.readers.yaml_file import parse_yaml, read_yaml

MAX_MISTAKES = 10  # in one message
OVERRIDE = re.compile(r"((?:[^\s.=]+\.){0,15}[^\s.=]+)=(.*)", re.DOTALL)  # sections, field and value

STARTS = {  # stage -> what model.path must be
    "base": "an autoencoder's folder, or emoji-autoencoder,",
    "lcm": "a model folder, a hub id or a bundled model",
    "e2ed2": "a model folder, a hub id or a bundled model",
}
# What may change between the runs of one run folder: nothing here alters an update.
FREE_FIELDS = {f"evaluation.{name}" for name in EvaluationConfig.model_fields} | {
    "run.dir",
    "data.num_workers",
    "train.checkpoint_every",
    "train.log_every",
    "train.preview_every",
    "train.keep_checkpoints",
    "train.trackers",
}


def load_config(recipe: Path, overrides: list[str] | None = None) -> Config:
    """A recipe file, or a shipped one by its name, with `field.path=value` overrides, validated.

    Raises:
        UserError: unreadable file, malformed override, unknown field, wrong type or range.
    """
    values = read_yaml(recipe_file(recipe), "recipe", "recipes/")
    if not isinstance(values, dict):
        found = "nothing" if values is None else type(values).__name__
        raise UserError(f"recipe {recipe}: expected fields such as 'stage: e2ed2', found {found}")
    overrides = overrides or []
    if isinstance(values.get("data"), dict) and any(override.startswith("data.source=") for override in overrides):
        for field in ("sources", *SourceConfig.model_fields):  # they belong to the source that is replaced
            values["data"].pop(field, None)
    return config_of(values, overrides)


def config_of(values: dict[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Plain values, section -> fields, with `field.path=value` overrides, validated.

    Raises:
        UserError: malformed override, unknown field, wrong type or range, fields that do not go together.
    """
    for override in overrides:
        apply_override(values, override)
    config = build_config(values)
    check_config(config)
    return config


def refuse_run_dir(overrides: Sequence[str]) -> None:
    """Raise UserError where overrides name the run folder, which is a command's own option."""
    if any(override.startswith(("run.dir=", "run=")) for override in overrides):
        raise UserError("run.dir: this command writes to --out; give that instead")


def build_config(values: dict[str, Any]) -> Config:
    """Plain values, validated.

    Raises:
        UserError: every mistake, in one line.
    """
    return validated(Config, values)


def validated(model: type[M], values: dict[str, Any]) -> M:
    """Plain values as a recipe of any kind.

    Raises:
        UserError: every mistake, in one line.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        mistakes = [_explain(item, model) for item in error.errors()]
        more = [f"{len(mistakes) - MAX_MISTAKES} more"] if len(mistakes) > MAX_MISTAKES else []
        raise UserError("; ".join(mistakes[:MAX_MISTAKES] + more)) from error


def check_config(config: Config) -> None:
    """What no field can tell alone.

    Raises:
        UserError: the stage lacks something, or would not read something that is set.
    """
    stage, model, data = config.stage, config.model, config.data
    if stage in STARTS and model.path is None:
        raise UserError(f"model.path: missing; stage {stage} needs {STARTS[stage]} to start from")
    if stage in ("autoencoder", "base") and model.architecture is None:
        raise UserError(f"model.architecture: missing; stage {stage} makes a new network, see its recipe")
    if stage == "lcm" and model.architecture is not None:
        raise UserError("model.architecture: given, but stage lcm distils a trained network: leave it out")
    weights = objective_weights(config)
    check_unread(config, weights.keys(), flatten(config.model_dump(exclude_defaults=True)))
    check_data(config)
    check_grids(config)
    check_trajectory(config)
    check_start(config)
    check_coupling(config, weights.keys())
    check_evaluation(config)
    if stage == "autoencoder" and "l1" not in weights:
        raise UserError("objective.l1.weight: 0, but it is what makes an autoencoder: give it a weight, e.g. 1")
    if stage == "e2ed2" and not weights:
        terms = ", ".join(TERMS[stage])
        raise UserError(
            f"objective: no term has a weight; give one of {terms}, e.g. objective.patch_energy.weight=1"
        )
    if "plugin" in weights and config.objective.plugin.function is None:
        raise UserError(
            f"objective.plugin.function: missing; objective.plugin.weight={weights['plugin']:g} weighs a function of "
            "yours: give package.module:function"
        )
    if "mmd" in weights:
        check_sets(config)
    if data.images_per_caption > 1:
        check_class_batches(config, weights.keys())
    if config.objective.num_samples * data.images_per_caption < 2 and weights.keys() & SCORING_RULES:
        found, remedy = config.objective.num_samples, "give 2 or more, or data.images_per_caption=2"
        raise UserError(f"objective.num_samples: {found}, but a scoring rule compares samples: {remedy}")


def changed_fields(recorded: Mapping[str, Any], config: Config) -> dict[str, tuple[Any, Any]]:
    """field -> (recorded value, value now) where a run's recorded config differs in what an update computes.

    At a constant rate a run may also become longer. A field that the record does not know, written by an earlier
    version, had its default; one that only the record knows does not count.
    """
    defaults = Config(stage=config.stage, run=config.run).model_dump(mode="json")
    before = flatten(defaults) | flatten(recorded)
    now = flatten(config.model_dump(mode="json"))
    free = FREE_FIELDS | ({"train.max_train_steps"} if config.train.lr_schedule == "constant" else set())
    names = [name for name in before | now if name in now or name.startswith("model.architecture")]
    pairs = {name: (before.get(name), now.get(name)) for name in names if name not in free}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Sections within sections as `section.field` -> value."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set a field of plain values, in place.

    Raises:
        UserError: malformed override; the values are as they were.
    """
    said = f"override {_shown(override)}"
    match = OVERRIDE.fullmatch(override)
    if match is None:
        raise UserError(f"{said}: expected field.path=value, for example train.lr=1e-5")
    try:
        value = parse_yaml(match[2])
    except ValueError as error:
        remedy = f"quote a text that holds {{}}[]*&#: twice, '{match[1]}=\"...\"'"
        raise UserError(f"{said}: not a YAML value ({error}); {remedy}") from error
    *parents, leaf = match[1].split(".")
    target = values
    for parent in parents:
        child = {} if target.get(parent) is None else target[parent]
        if not isinstance(child, dict):
            raise UserError(f"{said}: {parent} is a value, not a section")
        target[parent] = dict(child)  # a copy: an alias may repeat the section elsewhere
        target = target[parent]
    target[leaf] = value


def _explain(item: Any, model: type[BaseModel]) -> str:
    parts = [str(part) if str(part).isprintable() else repr(part) for part in item["loc"]]
    field, value = ".".join(parts) or "recipe", _shown(item["input"])
    if item["type"] == "extra_forbidden":
        allowed = ", ".join(_section(item["loc"][:-1], model).model_fields)
        return f"{field}: unknown field; allowed here: {allowed}"
    if item["type"] == "missing":
        field = {"run": "run.dir"}.get(field, field)
        return f"{field}: missing; add it to the recipe or pass {field}=VALUE"
    if item["type"] == "model_type":
        allowed = ", ".join(_section(item["loc"], model).model_fields)
        return f"{field}: {value} is not allowed; expected a section with fields among {allowed}"
    return f"{field}: {value} is not allowed ({item['msg'].removeprefix('Value error, ')})"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."


def _section(path: tuple[Any, ...], model: type[BaseModel]) -> type[BaseModel]:
    section: Any = model
    for part in path:
        kind = section if isinstance(part, int) else section.model_fields[part].annotation
        section = next((inner for inner in get_args(kind) if inner is not type(None)), kind)
    return section
