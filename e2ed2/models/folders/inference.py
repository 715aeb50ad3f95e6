"""The exact call that a model was made for, `inference.json` in its folder."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from e2ed2.models.families import Family, family_of, network_of
from e2ed2.models.scheduler import NUM_TRAIN_TIMESTEPS, ORIGINAL_INFERENCE_STEPS, solver_of
from e2ed2.models.text import MAX_SEQUENCE_LENGTH
from e2ed2.samplers import SOLVERS
from e2ed2.schedule import lcm_timesteps, trailing_timesteps
from e2ed2.system.errors import UserError

INFERENCE_FILE = "inference.json"
CALL_ARGUMENTS = {"max_sequence_length", "use_resolution_binning", "clean_caption"}  # not of every pipeline


@dataclass(frozen=True)
class Inference:
    """The call a model was made for, in the pipeline's own words; `solver` is `lcm`, `ddim` or `euler`.

    `timesteps`: a grid of the model's own for `num_inference_steps` steps, learned or given, `fewer_timesteps`: those
    for fewer, by their number; the others are the solver's.
    `transformers`: where each step has a network of its own, their subfolders in order.
    `embedded_guidance`: the network is told the scale, and guidance costs no second evaluation; known of the network.
    """

    solver: str
    num_inference_steps: int
    guidance_scale: float
    height: int
    width: int
    max_sequence_length: int = MAX_SEQUENCE_LENGTH
    use_resolution_binning: bool = False
    clean_caption: bool = False
    timesteps: list[int] | None = None
    fewer_timesteps: dict[str, list[int]] | None = None
    transformers: list[str] | None = None
    embedded_guidance: bool = False

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS or not isinstance(self.num_inference_steps, int):
            raise ValueError(f"inference.json: solver {self.solver}, {self.num_inference_steps} steps")
        if self.timesteps is not None and len(self.timesteps) != self.num_inference_steps:
            raise ValueError(f"inference.json: {self.num_inference_steps} steps, but timesteps {self.timesteps}")
        for steps, timesteps in (self.fewer_timesteps or {}).items():
            if steps != str(len(timesteps)) or len(timesteps) >= self.num_inference_steps:
                raise ValueError(f"inference.json: fewer_timesteps {steps}: {timesteps}")
        if self.transformers is not None and len(self.transformers) != self.num_inference_steps:
            raise ValueError(f"inference.json: {self.num_inference_steps} steps, but transformers {self.transformers}")

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
            return trailing_timesteps(steps)
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
        if self.timesteps is not None:
            return {"timesteps": self.timesteps}
        return {"num_inference_steps": self.num_inference_steps}

    def call(self, family: Family) -> dict[str, Any]:
        """The keyword arguments of the pipeline's call, less the prompt."""
        shared = ("guidance_scale", "height", "width")
        return self.steps() | {name: getattr(self, name) for name in (*shared, *family.call_arguments)}

    def to_json(self, family: Family) -> str:
        """What `inference.json` holds: no argument that the family's pipeline does not have."""
        absent = CALL_ARGUMENTS - set(family.call_arguments) | {"embedded_guidance"}
        values = {name: value for name, value in asdict(self).items() if name not in absent}
        return json.dumps(values | (self.steps() if self.solver == "euler" else {}), indent=1) + "\n"


def read_inference(folder: Path, pipeline: Any) -> Inference:
    """`inference.json` of a model folder; where a plain diffusers folder has none, the defaults of the pipeline's call.

    Raises:
        OSError, ValueError, TypeError: damaged.
    """
    values: dict[str, Any] = {}
    if (folder / INFERENCE_FILE).exists():
        values = json.loads((folder / INFERENCE_FILE).read_text())
        values.pop("sigmas", None)  # they follow from the rest
    return replace(_of_call(pipeline), **values, embedded_guidance=family_of(pipeline).embeds_guidance(pipeline))


def _of_call(pipeline: Any) -> Inference:
    defaults = {name: p.default for name, p in inspect.signature(pipeline.__call__).parameters.items()}
    side = network_of(pipeline).config.sample_size * pipeline.vae_scale_factor
    return Inference(
        solver=solver_of(pipeline.scheduler),
        num_inference_steps=defaults["num_inference_steps"],
        guidance_scale=defaults["guidance_scale"],
        height=side,
        width=side,
        max_sequence_length=defaults.get("max_sequence_length", pipeline.tokenizer.model_max_length),
    )
