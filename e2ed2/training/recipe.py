"""A recipe file -> `Config`: overrides, one line for every mistake, and what may change when a run is resumed."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from e2ed2.errors import UserError
from e2ed2.training.config import Config, EvaluationConfig, objective_weights
from e2ed2.training.data_config import SourceConfig
from e2ed2.training.objective_config import SCORING_RULES, TERMS

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
    """A recipe file with `field.path=value` overrides, validated.

    Raises:
        UserError: unreadable file, malformed override, unknown field, wrong type or range.
    """
    try:
        values = yaml.safe_load(recipe.read_text())
    except OSError as error:
        raise UserError(f"recipe {recipe}: {error.strerror}; see recipes/ for examples") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date that does not exist
        raise UserError(f"recipe {recipe}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        found = "nothing" if values is None else type(values).__name__
        raise UserError(f"recipe {recipe}: expected fields such as 'stage: e2ed2', found {found}")
    overrides = overrides or []
    if isinstance(values.get("data"), dict) and any(override.startswith("data.source=") for override in overrides):
        for field in ("sources", *SourceConfig.model_fields):  # they belong to the source that is replaced
            values["data"].pop(field, None)
    for override in overrides:
        _apply_override(values, override)
    config = build_config(values)
    check_config(config)
    return config


def build_config(values: dict[str, Any]) -> Config:
    """Plain values, validated.

    Raises:
        UserError: every mistake, in one line.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError("; ".join(_explain(item) for item in error.errors())) from error


def check_config(config: Config) -> None:
    """What no field can tell alone.

    Raises:
        UserError: the stage lacks something, or would not read something that is set.
    """
    stage, model, data, train = config.stage, config.model, config.data, config.train
    if stage in STARTS and model.path is None:
        raise UserError(f"model.path: missing; stage {stage} needs {STARTS[stage]} to start from")
    if stage in ("autoencoder", "base") and model.architecture is None:
        raise UserError(f"model.architecture: missing; stage {stage} makes a new network, see its recipe")
    if stage == "lcm" and model.architecture is not None:
        raise UserError("model.architecture: given, but stage lcm distils a trained network: leave it out")
    _check_data(config)
    trajectory = config.trajectory
    if trajectory.time_grid != "fixed" and (trajectory.random_num_steps or trajectory.start != "pure_noise"):
        raise UserError(
            f"trajectory.time_grid: {trajectory.time_grid} needs trajectory.start=pure_noise (from a later start less "
            "noise is always better) and random_num_steps=false (a grid is of one number of steps)"
        )
    if trajectory.parameters == "lora" and trajectory.time_grid == "learned_alone":
        raise UserError("trajectory.parameters: lora, but time_grid=learned_alone trains no network: leave one out")
    if trajectory.parameters.endswith("per_step") and (
        trajectory.random_num_steps or trajectory.num_inference_steps == 1 or trajectory.time_grid == "learned_alone"
    ):
        raise UserError(
            f"trajectory.parameters: {trajectory.parameters} needs num_inference_steps of 2 or more, "
            "random_num_steps=false (a set belongs to one step of one sampler) and a network that is trained "
            "(time_grid not learned_alone)"
        )
    _check_start(config)
    _check_coupling(config)
    _check_evaluation(config)
    weights = objective_weights(config)
    if stage == "autoencoder" and "l1" not in weights:
        raise UserError("objective.l1.weight: 0, but it is what makes an autoencoder: give it a weight, e.g. 1")
    if stage == "e2ed2" and not weights:
        terms = ", ".join(TERMS[stage])
        raise UserError(
            f"objective: no term has a weight; give one of {terms}, e.g. objective.patch_energy.weight=1"
        )
    if "mmd" in weights and train.micro_batch_size < 2:
        raise UserError(f"train.micro_batch_size: {train.micro_batch_size}, but mmd compares sets: give 2 or more")
    if data.images_per_caption > 1:
        _check_class_batches(config, weights.keys())
    if config.objective.num_samples * data.images_per_caption < 2 and weights.keys() & SCORING_RULES:
        found, remedy = config.objective.num_samples, "give 2 or more, or data.images_per_caption=2"
        raise UserError(f"objective.num_samples: {found}, but a scoring rule compares samples: {remedy}")


PATHS = {  # data.source -> what data.path must be
    "folder": "the folder of images and captions",
    "parquet": "a file, a folder, a pattern or a URL",
    "webdataset": "a folder of .tar shards, a pattern or a URL",
    "hub": "the data set's name",
    "cache": "the folder that `e2ed2 precompute` made",
}


def _check_data(config: Config) -> None:
    """Sources, and what goes together with streams and shapes."""
    data = config.data
    for i, part in enumerate(data.sources):
        if part.source not in PATHS or part.source == "cache":
            raise UserError(f"data.sources.{i}.source: {part.source} cannot be mixed; give it alone, as data.source")
        if part.is_stream != data.sources[0].is_stream:
            raise UserError(
                f"data.sources.{i}.streaming: {part.is_stream}, unlike the first source's (webdataset is always a "
                "stream); give the same to all of them"
            )
    sources: list[SourceConfig] = [*data.sources] or [data]
    for i, source in enumerate(sources):
        field = f"data.sources.{i}." if data.sources else "data."
        if source.source in PATHS and source.path is None:
            raise UserError(f"{field}path: missing; {field}source={source.source} needs {PATHS[source.source]}")
        if source.source == "emoji" and source.path is not None:
            raise UserError(f"data.path: {data.path}, but data.source=emoji reads no folder: add data.source=folder")
        if source.streaming and source.source not in ("parquet", "hub", "webdataset"):
            raise UserError(f"{field}streaming: {source.source} is not read in order; remove it, or pack tar shards")
    is_stream = sources[0].is_stream
    has_shapes, step, n = data.buckets.has_several, data.buckets.step, data.images_per_caption
    uneven = [size for size in (data.size, *data.buckets.sizes) if size % step]
    if has_shapes and uneven:
        field = "data.size" if data.size % step else "data.buckets.sizes"
        raise UserError(f"data.buckets.step: {step} does not divide {field}={uneven[0]}; give a divisor of it")
    if n > 1 and data.plain_caption_fraction == 1 and (is_stream or has_shapes):
        problem = "a stream is never seen as a whole" if is_stream else "images of a caption may differ in shape"
        raise UserError(f"data.images_per_caption: {n}, but {problem}; give 1, or another source and no data.buckets")
    if config.stage == "autoencoder" and (is_stream or has_shapes or data.source == "cache"):
        raise UserError(
            "data: stage autoencoder holds square images in memory; give a folder, parquet or hub, without data.buckets"
        )


def _check_start(config: Config) -> None:
    """What only the stages that start from a trained pipeline read."""
    model, trajectory = config.model, config.trajectory
    if model.lora and (config.stage not in ("lcm", "e2ed2") or model.architecture is not None):
        raise UserError(f"model.lora: {', '.join(model.lora)}, but there is no trained network to add it to: remove it")
    if config.stage == "lcm" and trajectory.solver not in (None, "lcm"):
        raise UserError(f"trajectory.solver: {trajectory.solver}, but stage lcm distils for lcm: leave it out")
    if config.stage == "lcm" and trajectory.parameters != "shared":
        raise UserError(f"trajectory.parameters: {trajectory.parameters}, but stage lcm trains the network itself")
    if config.stage == "lcm" and trajectory.guidance_scale is not None:
        raise UserError(
            f"trajectory.guidance_scale: {trajectory.guidance_scale}, but stage lcm distils the teacher's guidance in: "
            "set consistency.guidance_scale instead"
        )


def _check_evaluation(config: Config) -> None:
    """What is measured while training."""
    asked = config.evaluation.model_dump(exclude_defaults=True)
    if asked and config.evaluation.protocol is None:
        field, value = next(iter(asked.items()))
        raise UserError(f"evaluation.{field}: {value}, but nothing is measured: add evaluation.protocol, e.g. emoji")
    if asked and config.stage == "autoencoder":
        raise UserError("evaluation.protocol: stage autoencoder makes no images from captions: remove it")


def _check_class_batches(config: Config, terms: Collection[str]) -> None:
    """Groups of images of a plain caption, which scoring rules judge, and rows with captions of their own."""
    n, plain, size = config.data.images_per_caption, config.data.plain_caption_fraction, config.train.micro_batch_size
    field, pointwise = f"data.images_per_caption: {n}", set(terms) - SCORING_RULES - {"mmd", "adversarial"}
    if config.stage != "e2ed2" or not SCORING_RULES & set(terms):
        raise UserError(
            f"{field} is for scoring rules of stage e2ed2: give one a weight, such as objective.patch_energy.weight=1, "
            "or set it to 1"
        )
    if size % n or round(size * plain / n) == 0:
        raise UserError(
            f"train.micro_batch_size: {size}, but data.plain_caption_fraction={plain:g} of it must be a caption of {n} "
            f"images or more: give a multiple of {n}, or a larger one, or a larger fraction; where no captions are "
            "shared, data.images_per_caption=1 and no scoring rules"
        )
    if not pointwise and (plain < 1 or config.trajectory.start != "pure_noise"):
        raise UserError(
            f"{field}: scoring rules judge plain captions where the chain starts from noise, and nothing judges the "
            "rest; give another term a weight, or set data.plain_caption_fraction=1 and trajectory.start=pure_noise"
        )
    if "mmd" in terms and plain == 1:
        raise UserError(
            "objective.mmd.weight: compares samples of full captions, but with data.plain_caption_fraction=1 "
            "there are none: remove it, or give a smaller fraction"
        )


def _check_coupling(config: Config) -> None:
    """Which noise goes with which image."""
    trajectory, n = config.trajectory, config.data.images_per_caption
    coupling, teacher = trajectory.coupling, trajectory.teacher
    if coupling != "independent" and config.stage != "e2ed2":
        raise UserError(f"trajectory.coupling: {coupling}, but stage {config.stage} starts at no noise: remove it")
    if coupling != "teacher_pairs" and teacher is not None:
        raise UserError(f"trajectory.teacher: {teacher}, but only trajectory.coupling=teacher_pairs reads it: add that")
    if coupling == "teacher_pairs" and teacher is None:
        raise UserError("trajectory.teacher: missing; teacher_pairs needs a model that makes them, e.g. emoji-base")
    if coupling == "teacher_pairs" and (trajectory.start != "pure_noise" or n > 1):
        raise UserError(
            "trajectory.coupling: teacher_pairs needs trajectory.start=pure_noise and data.images_per_caption=1 (a "
            "pair is one noise and its one sample); set them, or take another coupling"
        )


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


def _apply_override(values: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise UserError(f"override '{override}': expected field.path=value, for example train.lr=1e-5")
    *parents, leaf = path.split(".")
    target = values
    for parent in parents:
        child = target.get(parent)
        if child is None:
            child = target[parent] = {}
        if not isinstance(child, dict):
            raise UserError(f"override '{override}': {parent} is a value, not a section")
        target = child
    try:
        target[leaf] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"override '{override}': '{text}' is not a YAML value") from error


def _explain(item: Any) -> str:
    field = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"{field}: unknown field; allowed here: {', '.join(_section(item['loc'][:-1]).model_fields)}"
    if item["type"] == "missing":
        field = {"run": "run.dir"}.get(field, field)
        return f"{field}: missing; add it to the recipe or pass {field}=VALUE"
    value = repr(item["input"])
    if item["type"] == "model_type":
        allowed = ", ".join(_section(item["loc"]).model_fields)
        return f"{field}: {value} is not allowed; expected a section with fields among {allowed}"
    return f"{field}: {value} is not allowed ({item['msg'].removeprefix('Value error, ')})"


def _section(path: tuple[Any, ...]) -> type[BaseModel]:
    section: Any = Config
    for part in path:
        section = get_args(section)[0] if isinstance(part, int) else section.model_fields[part].annotation
    return section
