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


def _divides_timesteps(value: int) -> int:
    if NUM_TRAIN_TIMESTEPS % value:
        raise ValueError(f"must divide {NUM_TRAIN_TIMESTEPS}, or the noisiest timesteps are never trained")
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
    serves them all.
    """

    num_inference_steps: Annotated[int, Field(strict=True, ge=1, le=MAX_INFERENCE_STEPS)] = 4
    random_num_steps: bool = False
    start: Literal["pure_noise", "random_step"] = "random_step"
    gradient_checkpointing: bool = False


class TermConfig(_Section):
    """One loss term."""

    weight: NonNegative = 0.0


class EnergyConfig(TermConfig):
    """A scoring rule; `beta` is the exponent of its distance, strictly between 0 and 2."""

    beta: Annotated[Number, Field(gt=0, lt=2)] = 1.0


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
    num_samples: Count = 1


class ConsistencyConfig(_Section):
    """Latent consistency distillation (arXiv:2310.04378): teacher (default: the start), guidance, grid."""

    teacher: str | None = None
    guidance_scale: Annotated[Number, Field(ge=1)] = 2.0
    num_ddim_steps: Annotated[int, Field(strict=True, ge=2), AfterValidator(_divides_timesteps)] = 50
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
    return build_config(values)


def build_config(values: dict[str, Any]) -> Config:
    """Plain values, validated.

    Raises:
        UserError: every mistake, in one line.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError("; ".join(_explain(item) for item in error.errors())) from error


def changed_fields(recorded: Mapping[str, Any], config: Config) -> dict[str, tuple[Any, Any]]:
    """field -> (recorded value, value now) where a run's recorded config differs in what an update computes.

    At a constant rate a run may also become longer. Fields that only one side knows do not count: another version
    wrote the record.
    """
    before, now = _flatten(recorded), _flatten(config.model_dump(mode="json"))
    free = FREE_FIELDS | ({"train.max_train_steps"} if config.train.lr_schedule == "constant" else set())
    changed = {}
    for name in before | now:
        is_known = name in before and name in now or name.startswith("model.architecture")
        if is_known and name not in free and before.get(name) != now.get(name):
            changed[name] = (before.get(name), now.get(name))
    return changed


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
