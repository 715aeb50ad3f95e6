"""Typed configuration of every training stage: one class per component, unknown keys refused.

A recipe states only what differs from the defaults; any field can be overridden as `train.lr=1e-5`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from e2ed2.data.buckets import Shape, bucket_shapes
from e2ed2.errors import UserError

MAX_INFERENCE_STEPS = 50  # the LCM sampler's grid
NUM_TRAIN_TIMESTEPS = 1000


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
PathOrUrl = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RunConfig(_Section):
    """Where the run writes."""

    dir: Path


class ModelConfig(_Section):
    """What the stage starts from.

    `path`: a model folder, a bundled model's name, or a hub id `org/name` with its `revision` and `variant` (`base`:
    the autoencoder; `lcm`, `e2ed2`: a pipeline). `lora`: adapters fused into it, files, folders or hub ids.
    `gradient_checkpointing`: keep only the states between the network's blocks; composes with the trajectory's own.
    `architecture`: keyword arguments of the network that `autoencoder` and `base` create from random weights, and
    `e2ed2` when it trains from scratch: `path` is then an autoencoder.
    """

    path: str | None = None
    revision: str | None = None
    variant: str | None = None
    lora: list[str] = []
    gradient_checkpointing: bool = False
    architecture: dict[str, Any] | None = None


SourceName = Literal["emoji", "folder", "parquet", "webdataset", "hub", "cache"]


class SourceConfig(_Section):
    """Where captioned images are.

    `path`: a folder; files, a pattern or URLs of `parquet` and `webdataset`; a data set's name of `hub`, with its
    `revision` and `split`; what `e2ed2 precompute` made of `cache`. `streaming` reads `parquet` and `hub` in order, as
    `webdataset` always is, instead of having all of it on disk. `image_column`, `caption_column`: default: a usual
    name. `caption_per_line`: a text of several lines is several captions.
    """

    source: SourceName = "emoji"
    path: PathOrUrl | None = None
    revision: str | None = None
    split: str = "train"
    streaming: bool = False
    image_column: str | None = None
    caption_column: str | None = None
    caption_per_line: bool = False

    @property
    def is_stream(self) -> bool:
        return self.source == "webdataset" or self.streaming


class WeightedSourceConfig(SourceConfig):
    """One of several sources; draws are in proportion to the weights."""

    weight: Positive = 1.0


class BucketConfig(_Section):
    """Shapes beside the square: sides that `step` divides, at most `max_ratio` : 1, of about the square's area.

    `sizes`: sides of further squares, with shapes of their own; an image goes to the largest size that it fills.
    """

    max_ratio: Annotated[Number, Field(ge=1)] = 1.0
    step: Annotated[int, Field(strict=True, ge=8)] = 64
    sizes: list[Annotated[int, Field(strict=True, ge=8)]] = []

    @property
    def has_several(self) -> bool:
        """Whether there are shapes beside the one square."""
        return self.max_ratio > 1 or bool(self.sizes)


class DataConfig(SourceConfig):
    """Captioned images: one source, or several as `sources`. `size`: side in pixels of a square.

    `window_size`: items of a stream that are in memory and shuffled together, and as many that are being read.
    `num_workers`: threads that decode; they change nothing else. `images_per_caption`: n > 1 makes a micro-batch of
    captions with n different images each, which scoring rules compare with all samples of the caption; it is then
    always the plain one.
    """

    sources: list[WeightedSourceConfig] = []
    size: Annotated[int, Field(strict=True, ge=8)] = 64
    buckets: BucketConfig = BucketConfig()
    window_size: Count = 1000
    num_workers: Count | None = None
    max_bad_fraction: Fraction = 0.05
    plain_caption_fraction: Fraction = 0.25
    caption_dropout: Fraction = 0.0
    images_per_caption: Count = 1

    @property
    def shapes(self) -> list[Shape]:
        """What images are fitted to, the square of `size` first."""
        return bucket_shapes(self.size, **self.buckets.model_dump())


class TrajectoryConfig(_Section):
    """The sampler that is unrolled (Eq. 7) or distilled for.

    `random_num_steps`: every micro-batch draws its number of steps from 1 to `num_inference_steps`, so that one model
    serves them all. `time_grid`: the timesteps are parameters too, `learned` with the network or `learned_alone` on a
    frozen one. `parameters`: one set for all steps, one for each (App. D.1), or a LoRA of rank `lora_rank` on the
    frozen start, one for all or for each. `solver`: `lcm`, `ddim`, or for flow models `euler` (default: the start's own
    where it was made for few steps). `guidance_scale` above 1: classifier-free guidance inside the chain, two
    evaluations a step; an LCM's network is told the scale instead (default: the start's). `num_backprop_steps`: steps
    at the end that the gradient passes through (default: all). `coupling`: which image a start noise goes with; with
    `teacher_pairs` it is the sample that `teacher`, a model folder or a bundled model, makes of that noise for the full
    caption.
    """

    num_inference_steps: Annotated[int, Field(strict=True, ge=1, le=MAX_INFERENCE_STEPS)] = 4
    random_num_steps: bool = False
    solver: Literal["lcm", "ddim", "euler"] | None = None
    guidance_scale: Annotated[Number, Field(ge=1)] | None = None
    start: Literal["pure_noise", "random_step"] = "random_step"
    coupling: Literal["independent", "optimal_transport", "teacher_pairs"] = "independent"
    teacher: str | None = None
    time_grid: Literal["fixed", "learned", "learned_alone"] = "fixed"
    parameters: Literal["shared", "per_step", "lora", "lora_per_step"] = "shared"
    lora_rank: Count = 16
    gradient_checkpointing: bool = False
    num_backprop_steps: Count | None = None


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
    """The GAN term (Eq. 8, App. C.2); the paper's weight is 0.01. `lr`: of the discriminator, AdamW.

    `space`: what it looks at; `feature` is maps of the frozen feature network. `buffer_size`: micro-batches of past
    samples that its updates reuse instead of new ones.
    """

    space: Literal["latent", "pixel", "feature"] = "latent"
    loss: Literal["hinge", "non_saturating", "least_squares"] = "hinge"
    num_discriminator_updates: Count = 5
    lr: Positive = 2e-4
    r1_weight: NonNegative = 0.0
    buffer_size: CountOrZero = 0


class ObjectiveConfig(_Section):
    """Weights of the end-to-end loss's terms; `num_samples` samples per image (scoring rules need 2 of a caption).

    `perceptual_network`: whose features terms on images compare; all but `bundled` are those of the `lpips` package.
    `intermediate_weight`: of the latent terms on each earlier step's estimate of x0, relative to the end's.
    """

    l1: TermConfig = TermConfig()
    l2: TermConfig = TermConfig()
    huber: TermConfig = TermConfig()
    energy: EnergyConfig = EnergyConfig()
    patch_energy: EnergyConfig = EnergyConfig()
    lpips: TermConfig = TermConfig()
    latent_lpips: TermConfig = TermConfig()
    lpips_energy: EnergyConfig = EnergyConfig()
    latent_lpips_energy: EnergyConfig = EnergyConfig()
    mmd: TermConfig = TermConfig()
    drifting: TermConfig = TermConfig()
    adversarial: AdversarialConfig = AdversarialConfig()
    kl: TermConfig = TermConfig(weight=2e-4)
    crop: CropConfig = CropConfig()
    perceptual_network: Literal["bundled", "alex", "vgg", "squeeze"] = "bundled"
    num_samples: Count = 1
    intermediate_weight: NonNegative = 0.0


class ConsistencyConfig(_Section):
    """Latent consistency distillation (arXiv:2310.04378): teacher (default: the start), guidance, grid."""

    teacher: str | None = None
    guidance_scale: Annotated[Number, Field(ge=1)] = 2.0
    num_ddim_steps: Annotated[int, Field(strict=True), AfterValidator(_holds_the_grid)] = 50
    huber_c: Positive = 1e-3


class TrainConfig(_Section):
    """Optimisation. Counts are optimizer steps; `micro_batch_size`: captions per device and forward pass.

    `mixed_precision`: `auto` is bf16 where the hardware has it; a run keeps what it was begun with. `trackers`: where
    every logged row goes beside `metrics.jsonl`, through accelerate; each needs its package.
    """

    max_train_steps: Count = 1000
    micro_batch_size: Count = 16
    gradient_accumulation_steps: Count = 1
    lr: Positive = 2e-5
    lr_schedule: Literal["constant", "cosine"] = "constant"
    lr_warmup_steps: CountOrZero = 0
    weight_decay: NonNegative = 0.03
    max_grad_norm: Positive = 1.0
    ema_decay: Annotated[Number, Field(ge=0, lt=1)] = 0.95
    mixed_precision: Annotated[Literal["auto", "no", "fp16", "bf16"], BeforeValidator(_no_is_text)] = "auto"
    seed: CountOrZero = 0
    checkpoint_every: Count = 500
    log_every: Count = 10
    preview_every: Count = 250
    keep_checkpoints: Count = 2
    trackers: list[Literal["tensorboard", "wandb", "mlflow", "comet_ml", "trackio", "swanlab", "clearml", "aim"]] = []


class EvaluationConfig(_Section):
    """What is measured while training: the average, before the first update and `every` so many, under `protocol`.

    `data`: where the captions and images of a protocol over files lie. `num_images`, `steps`: default: the protocol's,
    and those that the model is made for. `metric` says which is best (default: the protocol's first). The run ends
    early after `patience` evaluations without a better one.
    """

    protocol: str | None = None
    data: PathOrUrl | None = None
    every: Count = 1000
    num_images: Count | None = None
    steps: Count | None = None
    batch_size: Count = 32
    metric: str | None = None
    patience: Count | None = None


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
    evaluation: EvaluationConfig = EvaluationConfig()

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


OBJECTIVES = {  # name -> field of every term
    name: field
    for name, field in ObjectiveConfig.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, TermConfig)
}
SCORING_RULES = {name for name, field in OBJECTIVES.items() if isinstance(field.default, EnergyConfig)}
TERMS = {  # stage -> the objectives it can weigh
    "autoencoder": ("l1", "kl"),
    "e2ed2": tuple(name for name in OBJECTIVES if name != "kl"),
}


def objective_weights(config: Config) -> dict[str, float]:
    """name -> weight of the terms that count in the config's stage.

    Raises:
        UserError: a term has a weight that the stage would not read.
    """
    weights = {}
    for name, field in OBJECTIVES.items():
        term = getattr(config.objective, name)
        if term.weight == 0:
            continue
        if name in TERMS.get(config.stage, ()):
            weights[name] = term.weight
        elif term != field.default:
            terms = ", ".join(TERMS.get(config.stage, ())) or "none: its loss is fixed"
            raise UserError(f"objective.{name}.weight: {term.weight}, but stage {config.stage} has the terms {terms}")
    return weights
