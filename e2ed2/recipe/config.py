"""Typed configuration of every training stage: one class per component, unknown keys refused.

A recipe states only what differs from the defaults; any field can be overridden as `train.lr=1e-5`. `data` and
`objective` have files of their own.
"""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field

from e2ed2.recipe.data import DataConfig
from e2ed2.recipe.fields import (
    MOST_UPDATES,
    Count,
    CountOrZero,
    Held,
    NonNegative,
    Number,
    PathOrUrl,
    PlainValues,
    Positive,
    Section,
    Updates,
)
from e2ed2.recipe.objective import OBJECTIVES, TERMS, ObjectiveConfig
from e2ed2.system.errors import UserError

MAX_INFERENCE_STEPS = 50  # the LCM sampler's grid
NUM_TRAIN_TIMESTEPS = 1000
StageName = Literal["autoencoder", "base", "lcm", "e2ed2"]


def _no_is_text(value: Any) -> Any:
    return "no" if value is False else value  # YAML reads a bare `no` as a switch


def _holds_the_grid(value: int) -> int:
    if NUM_TRAIN_TIMESTEPS % value or value % MAX_INFERENCE_STEPS:
        grids = [k for k in range(50, 1001, 50) if NUM_TRAIN_TIMESTEPS % k == 0]
        raise ValueError(f"must be one of {', '.join(map(str, grids))}, or the sampler's timesteps are not all trained")
    return value


def _descends(grid: list[int]) -> list[int]:
    if any(later >= earlier for earlier, later in pairwise(grid)):
        raise ValueError("timesteps must descend, the noisiest first")
    return grid


Timestep = Annotated[int, Field(strict=True, ge=1, lt=NUM_TRAIN_TIMESTEPS)]
TimestepGrid = Annotated[list[Timestep], Field(min_length=1), AfterValidator(_descends)]


class RunConfig(Section):
    """Where the run writes."""

    dir: Path


class ModelConfig(Section):
    """What the stage starts from.

    `path`: a model folder, a bundled model's name, or a hub id `org/name` with its `revision` and `variant` (`base`:
    the autoencoder; `lcm`, `e2ed2`: a pipeline), or a whole pipeline in one safetensors file; `config`: of such a file
    a model folder or hub id of the same kind, where its tensors do not tell. `network`: weights that replace its
    network's, a safetensors or GGUF file or `org/name/file` of the hub. `lora`: adapters fused into it, files, folders,
    hub ids or `org/name/file`, with `@0.125` behind one at that scale.
    `gradient_checkpointing`: keep only the states between the network's blocks; composes with the trajectory's own.
    `selective` keeps also attention and the matrix products that take least to hold: half the memory, little more time.
    `compile`: blocks by torch.compile, which takes half a minute or more at the first updates; with `selective` the
    compiler chooses what is kept: two fifths of the memory, a tenth more time.
    `frozen_weights`: how the blocks below a LoRA are held: `whole`, in 8 or 4 bits (`int8`, `nf4`; the model is then
    written in the half precision of the run), or `offloaded` to the machine's memory.
    `architecture`: keyword arguments of the network that `autoencoder` and `base` create from random weights, and
    `e2ed2` when it trains from scratch: `path` is then an autoencoder.
    """

    path: str | None = None
    revision: str | None = None
    variant: str | None = None
    config: str | None = None
    network: str | None = None
    lora: list[str] = []
    gradient_checkpointing: Literal[False, True, "selective"] = False
    compile: bool = False
    frozen_weights: Literal["whole", "int8", "nf4", "offloaded"] = "whole"
    architecture: PlainValues | None = None


class TrajectoryConfig(Section):
    """The sampler that is unrolled (Eq. 7) or distilled for.

    `random_num_steps`: every micro-batch draws its number of steps from 1 to `num_inference_steps`, so that one model
    serves them all; `num_steps_weights` say how often each, [12, 6, 4, 3] as 1 / K (default: equally). `timesteps`:
    grids for the numbers of steps that they have, in place of the solver's own or the start's. `time_grid`: the
    timesteps are parameters too, `learned` with the network (with random numbers of steps a grid for each) or
    `learned_alone` on a frozen one. `parameters`: one set for all steps, one for each (App. D.1), or a LoRA of rank
    `lora_rank` on the frozen start, one for all or for each, at the layers whose names end in `lora_targets` (default:
    attention and feed-forward), written in the names of diffusers or of kohya (`lora_names`), which ComfyUI reads.
    `solver`: `lcm`, `ddim`, `ancestral` (DDPM's), for flow models `euler`, for SANA-Sprint `scm` (default: the start's
    own where it was made for few steps). `guidance_scale` above 1: classifier-free guidance inside the chain, two
    evaluations a step; an LCM's network is told the scale instead (default: the start's). `shift`: of a flow model's
    noise levels (default: the start's, which may go by the size of images). `num_backprop_steps`: steps at the end that
    the gradient passes through (default: all). `coupling`: which image a start noise goes with;
    with `teacher_pairs` it is the sample that `teacher`, a model folder or a bundled model, makes of that noise for the
    full caption.
    """

    num_inference_steps: Annotated[int, Field(strict=True, ge=1, le=MAX_INFERENCE_STEPS)] = 4
    random_num_steps: bool = False
    num_steps_weights: list[NonNegative] = []
    timesteps: list[TimestepGrid] = []
    solver: Literal["lcm", "ddim", "ancestral", "euler", "scm"] | None = None
    guidance_scale: Annotated[Number, Field(ge=1)] | None = None
    shift: Positive | None = None
    start: Literal["pure_noise", "random_step"] = "random_step"
    coupling: Literal["independent", "optimal_transport", "teacher_pairs"] = "independent"
    teacher: str | None = None
    time_grid: Literal["fixed", "learned", "learned_alone"] = "fixed"
    parameters: Literal["shared", "per_step", "lora", "lora_per_step"] = "shared"
    lora_rank: Held = 16
    lora_targets: list[str] | None = None
    lora_names: Literal["diffusers", "kohya"] = "diffusers"
    gradient_checkpointing: bool = False
    num_backprop_steps: Held | None = None

    @property
    def has_set_per_step(self) -> bool:
        """Whether each step has parameters of its own, so that the model knows one number of steps."""
        return self.parameters in ("per_step", "lora_per_step")

    @property
    def step_counts(self) -> list[int]:
        """The numbers of steps that chains are trained with."""
        if not self.random_num_steps:
            return [self.num_inference_steps]
        weights = self.num_steps_weights or [1.0] * self.num_inference_steps
        return [k for k, weight in enumerate(weights, start=1) if weight > 0]


class ConsistencyConfig(Section):
    """Latent consistency distillation (arXiv:2310.04378): teacher (default: the start), guidance, grid."""

    teacher: str | None = None
    guidance_scale: Annotated[Number, Field(ge=1)] = 2.0
    num_ddim_steps: Annotated[Count, AfterValidator(_holds_the_grid)] = 50
    huber_c: Positive = 1e-3


class TrainConfig(Section):
    """Optimisation. Counts are optimizer steps; `micro_batch_size`: captions per device and forward pass.

    `mixed_precision`: `auto` is bf16 where the hardware has it; a run keeps what it was begun with. `trackers`: where
    every logged row goes beside `metrics.jsonl`, through accelerate; each needs its package. `optimizer`: `adamw_8bit`
    keeps AdamW's moments in 8 bits. `offload_activations`: what autograd keeps waits in the machine's memory.
    """

    max_train_steps: Updates = 1000
    micro_batch_size: Held = 16
    gradient_accumulation_steps: Held = 1
    lr: Positive = 2e-5
    lr_schedule: Literal["constant", "cosine"] = "constant"
    lr_warmup_steps: Annotated[CountOrZero, Field(le=MOST_UPDATES)] = 0
    weight_decay: NonNegative = 0.03
    max_grad_norm: Positive = 1.0
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    offload_activations: bool = False
    ema_decay: Annotated[Number, Field(ge=0, lt=1)] = 0.95
    mixed_precision: Annotated[Literal["auto", "no", "fp16", "bf16"], BeforeValidator(_no_is_text)] = "auto"
    seed: CountOrZero = 0
    checkpoint_every: Updates = 500
    log_every: Updates = 10
    preview_every: Updates = 250
    keep_checkpoints: Updates = 2
    trackers: list[Literal["tensorboard", "wandb", "mlflow", "comet_ml", "trackio", "swanlab", "clearml", "aim"]] = []


class EvaluationConfig(Section):
    """What is measured while training: the average, before the first update and `every` so many, under `protocol`.

    `data`: where the captions and images of a protocol over files lie. `num_images`, `steps`: default: the protocol's,
    and those that the model is made for. `metric` says which is best (default: the protocol's first). The run ends
    early after `patience` evaluations without a better one.
    """

    protocol: str | None = None
    data: PathOrUrl | None = None
    every: Updates = 1000
    num_images: Updates | None = None
    steps: Held | None = None
    batch_size: Held = 32
    metric: str | None = None
    patience: Updates | None = None


class Config(Section):
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
