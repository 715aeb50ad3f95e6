"""The exact call that a model was made for, `inference.json` in its folder."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from e2ed2.models.families import Family, family_of, network_of
from e2ed2.models.scheduler import NUM_TRAIN_TIMESTEPS, ORIGINAL_INFERENCE_STEPS, solver_of, solvers_for
from e2ed2.models.text import MAX_SEQUENCE_LENGTH, longest_tokenizer
from e2ed2.samplers import SOLVERS
from e2ed2.schedule import MAX_ANGLE, lcm_timesteps, scm_timesteps, trailing_timesteps
from e2ed2.system.errors import UserError
from e2ed2.system.readers.json_file import read_fields
from e2ed2.system.readers.typed import in_words

INFERENCE_FILE = "inference.json"
REMEDY = "mend it, or export the model again"
CALL_ARGUMENTS = {"max_sequence_length", "use_resolution_binning", "clean_caption"}  # not of every pipeline
MAX_TOKENS = 4096

Side = Annotated[int, Field(ge=1)]
Grid = Annotated[list[Annotated[int, Field(ge=0, lt=NUM_TRAIN_TIMESTEPS)]], Field(min_length=1)]
Subfolder = Annotated[str, Field(pattern=r"^\w+$")]


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))
class Inference:
    """The call a model was made for, in the pipeline's own words; `solver` is one of `samplers.SOLVERS`.

    `timesteps`: a grid of the model's own for `num_inference_steps` steps, learned or given, `fewer_timesteps`: those
    for fewer, by their number; the others are the solver's.
    `transformers`: where each step has a network of its own, their subfolders in order.
    `embedded_guidance`: the network is told the scale, and guidance costs no second evaluation; known of the network.
    """

    solver: str
    num_inference_steps: Annotated[int, Field(ge=1, le=NUM_TRAIN_TIMESTEPS)]
    guidance_scale: Annotated[float, Field(ge=0)]
    height: Side
    width: Side
    max_sequence_length: Annotated[int, Field(ge=1, le=MAX_TOKENS)] = MAX_SEQUENCE_LENGTH
    use_resolution_binning: bool = False
    clean_caption: bool = False
    timesteps: Grid | None = None
    fewer_timesteps: dict[str, Grid] | None = None
    transformers: list[Subfolder] | None = None
    embedded_guidance: bool = False

    @field_validator("solver")
    @classmethod
    def _known(cls, given: str) -> str:
        if given not in SOLVERS:
            raise ValueError(f"must be one of {', '.join(SOLVERS)}")
        return given

    @field_validator("timesteps", "transformers")
    @classmethod
    def _one_a_step(cls, given: list[Any] | None, info: ValidationInfo) -> list[Any] | None:
        steps = info.data.get("num_inference_steps")  # absent where it is wrong itself
        if given is not None and steps is not None and len(given) != steps:
            raise ValueError(f"{steps} steps, but {info.field_name} for {len(given)}")
        return given

    @field_validator("timesteps")
    @classmethod
    def _descending(cls, given: list[int] | None) -> list[int] | None:
        if given is not None and any(later >= t for t, later in pairwise(given)):
            raise ValueError("timesteps must descend, the noisiest first")
        return given

    @field_validator("fewer_timesteps")
    @classmethod
    def _grids_of_fewer(cls, given: dict[str, list[int]] | None, info: ValidationInfo) -> dict[str, list[int]] | None:
        for steps, grid in (given or {}).items():
            if steps != str(len(grid)) or len(grid) >= info.data.get("num_inference_steps", NUM_TRAIN_TIMESTEPS):
                raise ValueError(f"must be grids of fewer steps by their number, but {steps!r} has {len(grid)}")
            cls._descending(grid)
        return given

    @property
    def evaluations_per_step(self) -> int:
        return 1 if self.guidance_scale <= 1 or self.embedded_guidance else 2

    @property
    def nfe(self) -> int:
        return self.num_inference_steps * self.evaluations_per_step

    def grid(self, num_inference_steps: int | None = None) -> torch.Tensor:
        """The descending timesteps, int64 [K].

        Raises:
            UserError: K outside the grid, or not the one that there are networks for.
        """
        steps = self.num_inference_steps if num_inference_steps is None else num_inference_steps
        if self.transformers is not None and steps != self.num_inference_steps:
            raise UserError(f"{steps} steps: the model has a network for each of its {self.num_inference_steps}")
        if steps in (own := self.own_grids):
            return torch.tensor(own[steps])
        try:
            if self.solver == "lcm":
                return lcm_timesteps(steps, original_inference_steps=ORIGINAL_INFERENCE_STEPS)
            return scm_timesteps(steps) if self.solver == "scm" else trailing_timesteps(steps)
        except ValueError as error:
            raise UserError(str(error)) from error

    @property
    def own_grids(self) -> dict[int, list[int]]:
        """Number of steps -> timesteps."""
        fewer = {len(grid): grid for grid in (self.fewer_timesteps or {}).values()}
        return fewer | ({} if self.timesteps is None else {self.num_inference_steps: self.timesteps})

    def with_grids(self, grids: Mapping[int, list[int]]) -> "Inference":
        """With these grids of its own, number of steps -> timesteps, and no others; those of more steps are dropped."""
        fewer = {str(k): grid for k, grid in grids.items() if k < self.num_inference_steps}
        return replace(self, timesteps=grids.get(self.num_inference_steps), fewer_timesteps=fewer or None)

    def steps(self) -> dict[str, Any]:
        """The call's arguments that make the grid; a flow pipeline has noise levels before its shift, not timesteps."""
        if self.solver == "euler":
            return {"sigmas": [(t + 1) / NUM_TRAIN_TIMESTEPS for t in self.grid().tolist()]}
        if self.solver == "scm":
            first, *rest = [(t + 1) / NUM_TRAIN_TIMESTEPS * MAX_ANGLE for t in self.grid().tolist()]
            angles = {"max_timesteps": first, "intermediate_timesteps": rest[0] if len(rest) == 1 else None}
            return {"num_inference_steps": self.num_inference_steps, **angles}
        if self.timesteps is not None:
            return {"timesteps": self.timesteps}
        return {"num_inference_steps": self.num_inference_steps}

    def call(self, family: Family) -> dict[str, Any]:
        """The keyword arguments of the pipeline's call, less the prompt."""
        guidance = family.guidance(self.guidance_scale, embedded=self.embedded_guidance)
        others = {name: getattr(self, name) for name in (*family.size_arguments, *family.call_arguments)}
        return self.steps() | guidance | others

    def to_json(self, family: Family) -> str:
        """What `inference.json` holds: no argument that the family's pipeline does not have."""
        absent = CALL_ARGUMENTS - set(family.call_arguments) | {"embedded_guidance"}
        values = {name: value for name, value in asdict(self).items() if name not in absent}
        return json.dumps(values | (self.steps() if self.solver == "euler" else {}), indent=1) + "\n"


def read_inference(folder: Path, pipeline: Any) -> Inference:
    """`inference.json` of a model folder; where a plain diffusers folder has none, the defaults of the pipeline's call.

    Raises:
        UserError: damaged, or of another kind of model.
    """
    embedded = {"embedded_guidance": family_of(pipeline).embeds_guidance(pipeline)}
    if not (folder / INFERENCE_FILE).exists():
        return _made({**_of_call(pipeline), **embedded}, f"model {folder}")
    defaults = {"max_sequence_length": _max_sequence_length(pipeline)}
    inference = inference_of(folder / INFERENCE_FILE, defaults, embedded)
    if inference.solver not in solvers_for(pipeline.scheduler):
        kind = type(pipeline.scheduler).__name__
        path = folder / INFERENCE_FILE
        raise UserError(f"{path}: solver: {inference.solver}, but the model's scheduler is {kind}; {REMEDY}")
    return inference


def inference_of(path: Path, defaults: Mapping[str, Any], fixed: Mapping[str, Any]) -> Inference:
    """An `inference.json` as the call it holds; keys of later versions are left.

    Args:
        defaults: for what the file may lack. fixed: known of the network, whatever the file says.
    Raises:
        UserError: no JSON, a missing field, or one of another kind.
    """
    values = read_fields(path, "model file", REMEDY)
    known = {field.name for field in fields(Inference)}
    given = {name: value for name, value in values.items() if name in known}
    return _made({**defaults, **given, **fixed}, f"model file {path}")


def _made(values: dict[str, Any], where: str) -> Inference:
    try:
        return Inference(**values)
    except ValidationError as error:
        raise UserError(f"{where}: {in_words(error)}; {REMEDY}") from error


def _of_call(pipeline: Any) -> dict[str, Any]:
    defaults = {name: p.default for name, p in inspect.signature(pipeline.__call__).parameters.items()}
    family = family_of(pipeline)
    side = family.side(network_of(pipeline).config, pipeline.vae.config)
    return {
        "solver": solver_of(pipeline.scheduler),
        "num_inference_steps": defaults["num_inference_steps"],
        "guidance_scale": family.own_guidance(pipeline, defaults),
        "height": side,
        "width": side,
        "max_sequence_length": _max_sequence_length(pipeline),
    }


def _max_sequence_length(pipeline: Any) -> int:
    parameters = inspect.signature(pipeline.__call__).parameters
    if (tokenizer := longest_tokenizer(pipeline)) is None:
        return MAX_SEQUENCE_LENGTH
    own, most = parameters.get("max_sequence_length"), tokenizer.model_max_length
    return most if own is None else family_of(pipeline).max_tokens(pipeline, min(own.default, most))
