"""What no field of a recipe can tell alone, section by section; `recipe.check_config` asks for all of it.

Each raises UserError.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from e2ed2.recipe.config import Config
from e2ed2.recipe.data import SourceConfig
from e2ed2.recipe.objective import OBJECTIVES, SCORING_RULES, decodes, judges_features
from e2ed2.system.errors import UserError


def check_unread(config: Config, terms: Collection[str], given: Mapping[str, Any]) -> None:
    """Fields that nothing would read.

    Args:
        terms: those with a weight. given: section.field -> value of what is not a default.
    """
    for is_read, why, fields in _readers(config, terms):
        for name, value in given.items():
            if not is_read and name.startswith(fields):
                raise UserError(f"{name}: {value}, but {why}: leave it out")


def _readers(config: Config, terms: Collection[str]) -> list[tuple[bool, str, tuple[str, ...]]]:
    """(Whether these fields or sections are read, else why not, their names or how they begin)."""
    stage, parameters = config.stage, config.trajectory.parameters
    sees_features = judges_features(config.objective, terms)
    drawn = ("random_num_steps", "num_steps_weights", "start")
    sampler = (*drawn, "timesteps", "time_grid", "parameters", "gradient_checkpointing", "num_backprop_steps")
    captions = ("data.caption_dropout", "data.plain_caption_fraction")
    table: list[tuple[bool, str, tuple[str, ...]]] = [
        (
            stage == "e2ed2",
            f"stage {stage} trains through no sampler",
            (
                *(f"trajectory.{name}" for name in sampler),
                *("objective.num_samples", "objective.intermediate_weight", "train.offload_activations"),
                "model.compile",
            ),
        ),
        (
            stage in ("lcm", "e2ed2"),
            f"stage {stage} makes no few-step sampler",
            tuple(f"trajectory.{name}" for name in ("num_inference_steps", "solver", "guidance_scale")),
        ),
        (stage == "lcm", f"stage {stage} distils nothing", ("consistency",)),
        (stage != "autoencoder", f"stage {stage} starts from nothing", ("model.path", "model.gradient_checkpointing")),
        (stage != "autoencoder", f"stage {stage} reads no captions", captions),
        (
            config.trajectory.coupling != "teacher_pairs",
            "trajectory.coupling=teacher_pairs draws full captions alone",
            captions,
        ),
        (
            config.model.architecture is None,
            "model.architecture makes a new network",
            tuple(f"model.{name}" for name in ("network", "revision", "variant", "config")),
        ),
        (
            parameters.startswith("lora"),
            f"trajectory.parameters={parameters} adds no LoRA",
            (*(f"trajectory.lora_{name}" for name in ("rank", "targets", "names")), "model.frozen_weights"),
        ),
        (sees_features, "no term has a weight that sees features of images", ("objective.perceptual_network",)),
        (decodes(config.objective, terms), "no term has a weight that sees decoded images", ("objective.crop",)),
        (config.objective.crop.size is not None, "objective.crop.size is not given", ("objective.crop.halo",)),
    ]
    for term in (name for name in OBJECTIVES if name not in terms):
        is_off = "weight" in getattr(config.objective, term).model_fields_set  # by a weight of 0: not forgotten
        table.append((is_off, f"objective.{term}.weight is missing (give one to use it)", (f"objective.{term}.",)))
    return table


PATHS = {  # data.source -> what data.path must be
    "folder": "the folder of images and captions",
    "parquet": "a file, a folder, a pattern or a URL",
    "webdataset": "a folder of .tar shards, a pattern or a URL",
    "hub": "the data set's name",
    "cache": "the folder that `e2ed2 precompute` made",
}


NO_DEFAULT_CAPTION = {  # data.source -> why data.default_caption would not be read, and what to do
    "emoji": "data.source=emoji has a caption for every image: leave it out",
    "cache": "a cache holds captions already: leave it out, and give it to `e2ed2 precompute`",
}


def check_data(config: Config) -> None:
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
        if source.source not in ("hub", "cache") and source.path and _lies_in(config.run.dir, source.path):
            raise UserError(f"run.dir: {config.run.dir} lies in {field}path and would add images to it; name another")
        if source.streaming and source.source not in ("parquet", "hub", "webdataset"):
            raise UserError(f"{field}streaming: {source.source} is not read in order; remove it, or pack tar shards")
    if data.default_caption is not None and (data.sources or data.source in NO_DEFAULT_CAPTION):
        why = "data.sources have their own: give it there" if data.sources else NO_DEFAULT_CAPTION[data.source]
        raise UserError(f"data.default_caption: '{data.default_caption}', but {why}")
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


def check_start(config: Config) -> None:
    """What only the stages that start from a trained pipeline read."""
    model, trajectory = config.model, config.trajectory
    if model.lora and (config.stage not in ("lcm", "e2ed2") or model.architecture is not None):
        raise UserError(f"model.lora: {', '.join(model.lora)}, but there is no trained network to add it to: remove it")
    if config.stage == "lcm" and trajectory.solver not in (None, "lcm"):
        raise UserError(f"trajectory.solver: {trajectory.solver}, but stage lcm distils for lcm: leave it out")
    if config.stage == "lcm" and trajectory.guidance_scale is not None:
        raise UserError(
            f"trajectory.guidance_scale: {trajectory.guidance_scale}, but stage lcm distils the teacher's guidance in: "
            "set consistency.guidance_scale instead"
        )


def check_evaluation(config: Config) -> None:
    """What is measured while training."""
    asked = config.evaluation.model_dump(exclude_defaults=True)
    if asked and config.evaluation.protocol is None:
        field, value = next(iter(asked.items()))
        raise UserError(f"evaluation.{field}: {value}, but nothing is measured: add evaluation.protocol, e.g. emoji")
    if asked and config.stage == "autoencoder":
        raise UserError("evaluation.protocol: stage autoencoder makes no images from captions: remove it")


def check_class_batches(config: Config, terms: Collection[str]) -> None:
    """Groups of images of a plain caption, which scoring rules judge, and rows with captions of their own."""
    n, plain, size = config.data.images_per_caption, config.data.plain_caption_fraction, config.train.micro_batch_size
    trajectory, is_one_step = config.trajectory, config.trajectory.step_counts == [1]
    field, others = f"data.images_per_caption: {n}", {"mmd", "adversarial", "keep", "plugin"}
    pointwise = set(terms) - SCORING_RULES - others
    if config.stage != "e2ed2" or not SCORING_RULES & set(terms):
        raise UserError(
            f"{field} is for scoring rules of stage e2ed2: give one a weight, such as objective.patch_energy.weight=1, "
            "or set it to 1"
        )
    if size % n or round(size * plain / n) == 0:
        remedy = f"a multiple of {n} from {n * (int(0.5 / plain) + 1)}, or a larger fraction" if plain else "a fraction"
        raise UserError(
            f"train.micro_batch_size: {size}, but data.plain_caption_fraction={plain:g} of it must be a caption of {n} "
            f"images or more: give {remedy}; where no captions are shared, data.images_per_caption=1 and no scoring "
            "rules"
        )
    if not pointwise and (plain < 1 or trajectory.start != "pure_noise"):
        raise UserError(
            f"{field}: scoring rules judge plain captions where the chain starts from noise, and no term judges the "
            "rest image by image; give one a weight, such as objective.l2.weight=1, or set "
            "data.plain_caption_fraction=1 and trajectory.start=pure_noise"
        )
    own, noise_only = size - round(size * plain / n) * n, trajectory.start == "pure_noise" or is_one_step
    idle = pointwise - {"denoising"}  # which starts no chain
    if own == 0 and noise_only and idle:
        raise UserError(
            f"{field} groups all {size} rows where plain_caption_fraction={plain:g}, and where a chain starts from "
            f"noise {', '.join(sorted(idle))} would judge nothing: remove that, or give a smaller fraction"
        )


def check_sets(config: Config) -> None:
    """Enough rows of full captions for the terms that compare sets."""
    n, plain, size = config.data.images_per_caption, config.data.plain_caption_fraction, config.train.micro_batch_size
    own = size - round(size * plain / n) * n if n > 1 else size
    if size < 2:
        raise UserError(f"train.micro_batch_size: {size}, but mmd compares sets: give 2 or more")
    if config.data.caption_dropout == 1:
        raise UserError(
            "objective.mmd.weight: compares samples of full captions, and data.caption_dropout=1 leaves none: give a "
            "smaller one"
        )
    if plain == 1 or own < 2:
        there = "none" if plain == 1 else f"{own} in {size} rows, and it needs 2"
        raise UserError(
            f"objective.mmd.weight: compares samples of full captions, but with data.plain_caption_fraction={plain:g} "
            f"there are {there}: remove it, or give a smaller fraction"
        )


def _lies_in(folder: Path, other: str) -> bool:
    return "://" not in other and folder.absolute().is_relative_to(Path(other).absolute())
