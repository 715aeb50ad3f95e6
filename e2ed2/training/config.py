"""Typed configuration of every training stage: one class per component, unknown keys refused.

A recipe states only what differs from the defaults; any field can be overridden as `train.lr=1e-5`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from e2ed2.errors import UserError

Stage = Literal["autoencoder", "base", "lcm", "e2ed2"]
Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RunConfig(_Section):
    """Where the run writes."""

    dir: Path


class ModelConfig(_Section):
    """What the stage starts from.

    `path`: a model folder or the name of a bundled model (`base`: the autoencoder; `lcm`, `e2ed2`: a pipeline).
    `architecture`: keyword arguments of the network that `autoencoder` and `base` create from random weights.
    """

    path: str | None = None
    architecture: dict[str, Any] | None = None


class DataConfig(_Section):
    """Captioned images. `path` is the folder of `source=folder`; `size` the side in pixels."""

    source: Literal["emoji", "folder"] = "emoji"
    path: Path | None = None
    size: Annotated[int, Field(ge=8)] = 64
    max_bad_fraction: Fraction = 0.05
    plain_caption_fraction: Fraction = 0.25
    caption_dropout: Fraction = 0.0


class TrajectoryConfig(_Section):
    """The sampler that is unrolled (Eq. 7) or distilled for."""

    num_inference_steps: Annotated[int, Field(ge=1)] = 4
    start: Literal["pure_noise", "random_step"] = "random_step"
    gradient_checkpointing: bool = False


class TermConfig(_Section):
    """One loss term; `beta` is the exponent of a scoring rule's distance, strictly between 0 and 2."""

    weight: NonNegative = 0.0


class EnergyConfig(TermConfig):
    beta: Annotated[float, Field(gt=0, lt=2)] = 1.0


class ObjectiveConfig(_Section):
    """Weights of the terms of the end-to-end loss; `num_samples` samples per caption (scoring rules need 2)."""

    l1: TermConfig = TermConfig()
    l2: TermConfig = TermConfig()
    huber: TermConfig = TermConfig()
    energy: EnergyConfig = EnergyConfig()
    patch_energy: EnergyConfig = EnergyConfig()
    kl: TermConfig = TermConfig(weight=2e-4)
    num_samples: Annotated[int, Field(ge=1)] = 1


class ConsistencyConfig(_Section):
    """Latent consistency distillation (arXiv:2310.04378): teacher (default: the start), its guidance and grid."""

    teacher: str | None = None
    guidance_scale: Annotated[float, Field(ge=1)] = 2.0
    num_ddim_steps: Annotated[int, Field(ge=2)] = 50
    huber_c: Annotated[float, Field(gt=0)] = 1e-3


class TrainConfig(_Section):
    """Optimisation. Counts are optimizer steps; `micro_batch_size` is captions per device and forward pass."""

    max_train_steps: Annotated[int, Field(ge=1)] = 1000
    micro_batch_size: Annotated[int, Field(ge=1)] = 16
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    lr: Annotated[float, Field(gt=0)] = 2e-5
    lr_schedule: Literal["constant", "cosine"] = "constant"
    lr_warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: NonNegative = 0.03
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.95
    mixed_precision: Literal["no", "fp16", "bf16"] = "bf16"
    seed: Annotated[int, Field(ge=0)] = 0
    checkpoint_every: Annotated[int, Field(ge=1)] = 500
    log_every: Annotated[int, Field(ge=1)] = 10
    preview_every: Annotated[int, Field(ge=1)] = 250
    keep_checkpoints: Annotated[int, Field(ge=1)] = 2


class Config(_Section):
    """A whole recipe."""

    stage: Stage
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
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {recipe}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise UserError(f"recipe {recipe}: expected fields such as 'stage: e2ed2', found {type(values).__name__}")
    for override in overrides or []:
        _apply_override(values, override)
    return build_config(values)


def build_config(values: dict[str, Any]) -> Config:
    """Validate plain values; the first mistake becomes one readable line."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UserError("; ".join(_explain(item) for item in error.errors())) from error


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
    except yaml.YAMLError as error:
        raise UserError(f"override '{override}': '{text}' is not a YAML value") from error


def _explain(item: Any) -> str:
    field = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        allowed = _allowed_fields(item["loc"][:-1])
        return f"{field}: unknown field; allowed here: {', '.join(allowed)}"
    if item["type"] == "missing":
        return f"{field}: missing; add it to the recipe or pass {field}=VALUE"
    return f"{field}: {item['input']!r} is not allowed ({item['msg']})"


def _allowed_fields(parents: tuple[Any, ...]) -> list[str]:
    section: Any = Config
    for part in parents:
        section = section.model_fields[part].annotation
    return sorted(section.model_fields)
