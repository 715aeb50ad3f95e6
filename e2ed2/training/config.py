"""Typed configuration of every training stage: one class per component, unknown keys refused.

A recipe states only what differs from the defaults; any field can be overridden as `train.lr=1e-5`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from e2ed2.errors import UserError

MAX_INFERENCE_STEPS = 50  # the LCM sampler's grid
NUM_TRAIN_TIMESTEPS = 1000
STARTS = {  # stage -> what model.path must be
    "base": "an autoencoder's folder, or emoji-autoencoder,",
    "lcm": "a model folder or a bundled model",
    "e2ed2": "a model folder or a bundled model",
}
TERMS = {  # stage -> the objectives it can weigh
    "autoencoder": ("l1", "kl"),
    "e2ed2": ("l1", "l2", "huber", "energy", "patch_energy", "lpips", "lpips_energy", "adversarial"),
}
SCORING_RULES = ("energy", "patch_energy", "lpips_energy")
# What may change between the runs of one run folder: nothing here alters an update.
FREE_FIELDS = {
    "run.dir",
    "train.checkpoint_every",
    "train.log_every",
    "train.preview_every",
    "train.keep_checkpoints",
}


def _no_switch(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number, not yes or no")
    return value


def _no_is_text(value: Any) -> Any:
    return "no" if value is False else value  # YAML reads a bare `no` as a switch


def _holds_the_grid(value: int) -> int:
    if NUM_TRAIN_TIMESTEPS % value or value % MAX_INFERENCE_STEPS:
        grids = [k for k in range(50, 1001, 50) if NUM_TRAIN_TIMESTEPS % k == 0]
        raise ValueError(f"must be one of {', '.join(map(str, grids))}, or the sampler's timesteps are not all trained")
    return value


StageName = Literal["autoencoder", "base", "lcm", "e2ed2"]
Count = Annotated[int, Field(strict=True, ge=1)]
CountOrZero = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
Number = Annotated[float, BeforeValidator(_no_switch)]  # not strict: YAML reads 1e-4 as text
Fraction = Annotated[Number, Field(ge=0, le=1)]
NonNegative = Annotated[Number, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RunConfig(_Section):
    """Where the run writes."""

    dir: Path


class ModelConfig(_Section):
    """What the stage starts from.

    `path`: a model folder or a bundled model's name (`base`: the autoencoder; `lcm`, `e2ed2`: a pipeline).
    `architecture`: keyword arguments of the network that `autoencoder` and `base` create from random weights.
    """

    path: str | None = None
    architecture: dict[str, Any] | None = None


class DataConfig(_Section):
    """Captioned images. `path` is the folder of `source=folder`; `size` the side in pixels."""

    source: Literal["emoji", "folder"] = "emoji"
    path: Path | None = None
    size: Annotated[int, Field(strict=True, ge=8)] = 64
    max_bad_fraction: Fraction = 0.05
    plain_caption_fraction: Fraction = 0.25
    caption_dropout: Fraction = 0.0


class TrajectoryConfig(_Section):
    """The sampler that is unrolled (Eq. 7) or distilled for.

    `random_num_steps`: every micro-batch draws its number of steps from 1 to `num_inference_steps`, so that one model
    serves them all. `time_grid`: the timesteps are parameters too, `learned` with the network or `learned_alone` on a
    frozen one.
    """

    num_inference_steps: Annotated[int, Field(strict=True, ge=1, le=MAX_INFERENCE_STEPS)] = 4
    random_num_steps: bool = False
    start: Literal["pure_noise", "random_step"] = "random_step"
    time_grid: Literal["fixed", "learned", "learned_alone"] = "fixed"
    gradient_checkpointing: bool = False


class TermConfig(_Section):
    """One loss term."""

    weight: NonNegative = 0.0


class EnergyConfig(TermConfig):
    """A scoring rule; `beta` is the exponent of its distance, strictly between 0 and 2."""

    beta: Annotated[Number, Field(gt=0, lt=2)] = 1.0


class CropConfig(_Section):
    """What losses on images decode: `size` x `size` latent cells, a random place per micro-batch (default: all).

    `halo`: cells decoded around them and cut off.
    """

    size: Count | None = None
    halo: CountOrZero = 4


class AdversarialConfig(TermConfig):
    """The GAN term (Eq. 8, App. C.2); the paper's weight is 0.01. `lr`: of the discriminator, AdamW."""

    space: Literal["latent", "pixel"] = "latent"
    loss: Literal["hinge", "non_saturating", "least_squares"] = "hinge"
    num_discriminator_updates: Count = 5
    lr: Positive = 2e-4
    r1_weight: NonNegative = 0.0


class ObjectiveConfig(_Section):
    """Weights of the end-to-end loss's terms; `num_samples` samples per caption (scoring rules need 2)."""

    l1: TermConfig = TermConfig()
    l2: TermConfig = TermConfig()
    huber: TermConfig = TermConfig()
    energy: EnergyConfig = EnergyConfig()
    patch_energy: EnergyConfig = EnergyConfig()
    lpips: TermConfig = TermConfig()
    lpips_energy: EnergyConfig = EnergyConfig()
    adversarial: AdversarialConfig = AdversarialConfig()
    kl: TermConfig = TermConfig(weight=2e-4)
    crop: CropConfig = CropConfig()
    num_samples: Count = 1


class ConsistencyConfig(_Section):
    """Latent consistency distillation (arXiv:2310.04378): teacher (default: the start), guidance, grid."""

    teacher: str | None = None
    guidance_scale: Annotated[Number, Field(ge=1)] = 2.0
    num_ddim_steps: Annotated[int, Field(strict=True), AfterValidator(_holds_the_grid)] = 50
    huber_c: Positive = 1e-3


class TrainConfig(_Section):
    """Optimisation. Counts are optimizer steps; `micro_batch_size`: captions per device and forward pass."""

    max_train_steps: Count = 1000
    micro_batch_size: Count = 16
    gradient_accumulation_steps: Count = 1
    lr: Positive = 2e-5
    lr_schedule: Literal["constant", "cosine"] = "constant"
    lr_warmup_steps: CountOrZero = 0
    weight_decay: NonNegative = 0.03
    max_grad_norm: Positive = 1.0
    ema_decay: Annotated[Number, Field(ge=0, lt=1)] = 0.95
    mixed_precision: Annotated[Literal["no", "fp16", "bf16"], BeforeValidator(_no_is_text)] = "bf16"
    seed: CountOrZero = 0
    checkpoint_every: Count = 500
    log_every: Count = 10
    preview_every: Count = 250
    keep_checkpoints: Count = 2


class Config(_Section):
    """A whole recipe."""

    stage: StageName
    run: RunConfig
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    trajectory: TrajectoryConfig = TrajectoryConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    consistency: ConsistencyConfig = ConsistencyConfig()
    train: TrainConfig = TrainConfig()

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


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
    for override in overrides or []:
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
    stage, model, data = config.stage, config.model, config.data
    if stage in STARTS and model.path is None:
        raise UserError(f"model.path: missing; stage {stage} needs {STARTS[stage]} to start from")
    if stage in ("autoencoder", "base") and model.architecture is None:
        raise UserError(f"model.architecture: missing; stage {stage} makes a new network, see its recipe")
    if data.source == "folder" and data.path is None:
        raise UserError("data.path: missing; data.source=folder needs the folder of images and captions")
    if data.source == "emoji" and data.path is not None:
        raise UserError(f"data.path: {data.path}, but data.source=emoji reads no folder: add data.source=folder")
    trajectory = config.trajectory
    if trajectory.time_grid != "fixed" and (trajectory.random_num_steps or trajectory.start != "pure_noise"):
        raise UserError(
            f"trajectory.time_grid: {trajectory.time_grid} needs trajectory.start=pure_noise (from a later start less "
            "noise is always better) and random_num_steps=false (a grid is of one number of steps)"
        )
    weights = objective_weights(config)
    if stage == "autoencoder" and "l1" not in weights:
        raise UserError("objective.l1.weight: 0, but it is what makes an autoencoder: give it a weight, e.g. 1")
    if stage == "e2ed2" and not weights:
        terms = ", ".join(TERMS[stage])
        raise UserError(
            f"objective: no term has a weight; give one of {terms}, e.g. objective.patch_energy.weight=1"
        )
    if config.objective.num_samples < 2 and any(name in weights for name in SCORING_RULES):
        found = config.objective.num_samples
        raise UserError(f"objective.num_samples: {found}, but a scoring rule compares samples: give 2 or more")


def objective_weights(config: Config) -> dict[str, float]:
    """name -> weight of the terms that count in the config's stage.

    Raises:
        UserError: a term has a weight that the stage would not read.
    """
    weights = {}
    for name, field in ObjectiveConfig.model_fields.items():
        term = getattr(config.objective, name)
        if not isinstance(term, TermConfig) or term.weight == 0:
            continue
        if name in TERMS.get(config.stage, ()):
            weights[name] = term.weight
        elif term != field.default:
            terms = ", ".join(TERMS.get(config.stage, ())) or "none: its loss is fixed"
            raise UserError(f"objective.{name}.weight: {term.weight}, but stage {config.stage} has the terms {terms}")
    return weights


def changed_fields(recorded: Mapping[str, Any], config: Config) -> dict[str, tuple[Any, Any]]:
    """field -> (recorded value, value now) where a run's recorded config differs in what an update computes.

    At a constant rate a run may also become longer. A field that the record does not know, written by an earlier
    version, had its default; one that only the record knows does not count.
    """
    defaults = Config(stage=config.stage, run=config.run).model_dump(mode="json")
    before = _flatten(defaults) | _flatten(recorded)
    now = _flatten(config.model_dump(mode="json"))
    free = FREE_FIELDS | ({"train.max_train_steps"} if config.train.lr_schedule == "constant" else set())
    names = [name for name in before | now if name in now or name.startswith("model.architecture")]
    pairs = {name: (before.get(name), now.get(name)) for name in names if name not in free}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
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
        section = section.model_fields[part].annotation
    return section
