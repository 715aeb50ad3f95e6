"""Models as their authors prescribe them: a plain diffusers pipeline, its scheduler and the arguments of its own call.

Those of Table 1 ship in `assets/`; `e2ed2 evaluate my.yaml` takes any other.
"""

import hashlib
import inspect
import json
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_type_hints

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from e2ed2.models.families import family_of, network_of
from e2ed2.models.folders.bundled import resolve_model
from e2ed2.models.folders.hub import weights_file
from e2ed2.models.folders.parts import refusing
from e2ed2.models.folders.pipeline import open_pipeline, replace_network
from e2ed2.sampling.generate import Request, check_finite
from e2ed2.system.errors import UserError, check_range, said
from e2ed2.system.files import file_sha256
from e2ed2.system.readers.typed import Part, checked, in_words
from e2ed2.system.readers.yaml_file import read_yaml

FOLDER = Path(__file__).parent / "assets"
SET_HERE = {"prompt", "generator", "output_type", "return_dict", "num_images_per_prompt"}
ANY_TYPE = ConfigDict(arbitrary_types_allowed=True)


class SchedulerChange(Part):
    """A scheduler of diffusers by its class; what else is given differs from the model's own settings."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(alias="class")]


class Baseline(Part):
    """How a model is to be sampled.

    Attributes:
        model: a diffusers folder or hub id; revision, variant: of a hub model.
        network: weights that replace the denoiser's, a file or `org/name/file` of the hub.
        scheduler: None keeps the model's own.
        call: arguments of the pipeline's call; its defaults hold for the rest.
        dtype: on a GPU; a CPU computes in float32.
        source: who prescribes this.
    """

    model: str
    revision: str | None = None
    variant: str | None = None
    network: str | None = None
    scheduler: SchedulerChange | None = None
    call: dict[str, Any] = {}
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    source: str = ""


def baseline_names() -> list[str]:
    """Those that ship."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_baseline(name: str) -> Baseline | None:
    """A shipped baseline or a YAML file, None for names of another kind.

    Raises:
        UserError: unreadable file, unknown field, wrong type.
    """
    path = FOLDER / f"{name}.yaml" if name in baseline_names() else Path(name)
    if path.suffix not in (".yaml", ".yml"):
        return None
    return checked(Baseline, read_yaml(path, "baseline", FOLDER), f"baseline {path}")


class PipelineSampler:
    """Images by a diffusers pipeline's own call, each from its own seed; the interface of `generate.Sampler`.

    Attributes:
        nfe: network evaluations an image costs, guidance and second-order steps included; num_inference_steps: steps.
        dtype: of the network. how_sha256: of all that decides the pixels beside weights, prompt and seed.
    Raises:
        UserError: a model that cannot be loaded, or steps beside `timesteps` or `sigmas` of another number.
    """

    def __init__(self, baseline: Baseline, steps: int | None = None) -> None:
        self.folder = resolve_model(baseline.model, baseline.revision, baseline.variant)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = getattr(torch, baseline.dtype) if device == "cuda" else torch.float32
        self.pipeline = _pipeline(self.folder, baseline, dtype).to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self._kind = type(self.pipeline).__name__
        self.dtype = next(network_of(self.pipeline).parameters()).dtype
        listed = {name: baseline.call[name] for name in ("timesteps", "sigmas") if baseline.call.get(name) is not None}
        self._call = baseline.call | ({} if steps is None or listed else {"num_inference_steps": steps})
        asked = _checked_call(self.pipeline, self._call)
        steps_asked = {"num_inference_steps": asked["num_inference_steps"]}
        evaluations = _evaluations(self.pipeline.scheduler, listed or steps_asked)
        self.num_inference_steps = evaluations if listed else asked["num_inference_steps"]
        if steps not in (None, self.num_inference_steps):
            what = f"the {next(iter(listed))} of {baseline.model} make {evaluations}"
            raise UserError(f"--steps {steps}: {what}; leave it out")
        guided = asked["guidance_scale"] > 1 and not family_of(self.pipeline).embeds_guidance(self.pipeline)
        self.nfe = evaluations * (2 if guided else 1)
        network = file_sha256(weights_file(baseline.network)) if baseline.network else None
        how = {"network": network, "scheduler": _settings(baseline.scheduler), "dtype": str(dtype), "call": self._call}
        self.how_sha256 = hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()

    @torch.inference_mode()
    def __call__(self, requests: list[Request], batch_size: int = 32) -> Tensor:
        """uint8 images [N, 3, H, W], one per request, in order."""
        images = []
        for start in range(0, len(requests), batch_size):
            batch = requests[start : start + batch_size]
            generators = [torch.Generator().manual_seed(r.seed) for r in batch]
            prompts = [r.prompt for r in batch]
            with refusing(f"baseline: its call is refused by {self._kind}", "mend `call`"):
                made = self.pipeline(prompts, generator=generators, output_type="np", **self._call).images
            check_finite(torch.from_numpy(made), batch)
            images.append(torch.from_numpy((made * 255).round().astype("uint8")).permute(0, 3, 1, 2))
        return torch.cat(images)


def _pipeline(folder: Path, baseline: Baseline, dtype: torch.dtype) -> Any:
    """The pipeline with the baseline's network and scheduler, safetensors only; nothing filters or marks its images."""
    import diffusers

    pipeline = open_pipeline(folder, baseline.variant, dtype, dtype)
    if baseline.network:
        replace_network(pipeline, baseline.network)
    with refusing(f"baseline {baseline.model}: its scheduler cannot be made", "mend `scheduler`"):
        if changes := _settings(baseline.scheduler):
            name = changes.pop("class")
            scheduler = getattr(diffusers, name, None)
            if not (inspect.isclass(scheduler) and issubclass(scheduler, diffusers.SchedulerMixin)):
                raise ValueError(f"scheduler.class: {name} is no scheduler of diffusers")
            pipeline.scheduler = cast(Any, scheduler).from_config(pipeline.scheduler.config, **changes)
    if getattr(pipeline, "safety_checker", None) is not None:
        pipeline.safety_checker = None  # a black image in place of a sample is no sample
    if getattr(pipeline, "watermark", None) is not None:
        pipeline.watermark = None  # SDXL marks its images wherever invisible-watermark is installed
    return pipeline


def _settings(scheduler: SchedulerChange | None) -> dict[str, Any] | None:
    return None if scheduler is None else scheduler.model_dump(by_alias=True)


def _checked_call(pipeline: Any, call: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a pipeline's call, those of `call` beside its defaults.

    Raises:
        UserError: one that the call does not have, that is set here, or of another type.
    """
    parameters = {n: p for n, p in inspect.signature(pipeline.__call__).parameters.items() if n not in SET_HERE}
    hints = get_type_hints(pipeline.__call__)
    for name, value in call.items():
        if name not in parameters:
            kind, known = type(pipeline).__name__, ", ".join(parameters)
            raise UserError(f"call.{name}: {kind} has no such argument, or it is set here; there are {known}")
        try:
            hint = hints.get(name, Any)
            allowed = TypeAdapter(hint if parameters[name].default is not None else hint | None, config=ANY_TYPE)
            allowed.validate_python(value, strict=not isinstance(value, list))  # YAML has lists, and no tuples
        except ValidationError as error:
            raise UserError(f"call.{name}: {in_words(error)}") from error
    asked = {name: p.default for name, p in parameters.items()} | call
    check_range("call.num_inference_steps", asked["num_inference_steps"], 1, 1000)
    return asked


def _evaluations(scheduler: Any, grid: dict[str, Any]) -> int:
    """How often a sampler of a pipeline's own call asks the network: second-order ones oftener than they step.

    Args:
        grid: `num_inference_steps`, `timesteps` or `sigmas`.
    Raises:
        UserError: a grid that the scheduler does not take.
    """
    shift = {"mu": 0.0} if scheduler.config.get("use_dynamic_shifting") else {}  # moves timesteps, adds none
    try:
        scheduler.set_timesteps(**grid, **shift)
    except (TypeError, ValueError) as error:
        name, value = next(iter(grid.items()))
        scheduler_name = type(scheduler).__name__
        raise UserError(f"call.{name} {value}: {scheduler_name} does not take it ({said(error)})") from error
    return len(scheduler.timesteps)
