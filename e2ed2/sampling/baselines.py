"""Models as their authors prescribe them: a plain diffusers pipeline, its scheduler and the arguments of its own call.

Those of Table 1 ship in `assets/`; `e2ed2 evaluate my.yaml` takes any other.
"""

import hashlib
import inspect
import json
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from e2ed2.models.families import FAMILIES, denoisers_of, family_of
from e2ed2.models.folders.bundled import resolve_model
from e2ed2.models.folders.hub import weights_file
from e2ed2.models.folders.index import read_index
from e2ed2.models.folders.misnamed import RUN_CONFIG, refuse_file, run_of
from e2ed2.models.folders.parts import refusing
from e2ed2.models.folders.pipeline import open_pipeline, replace_network
from e2ed2.sampling.generate import Request, check_finite
from e2ed2.sampling.own_call import (
    REMEDY,
    check_class,
    checked_call,
    counting_rows,
    evaluations,
    longest_text,
    takes_lists,
)
from e2ed2.system.errors import UserError
from e2ed2.system.files import file_sha256
from e2ed2.system.readers.typed import Part, checked
from e2ed2.system.readers.yaml_file import read_yaml

FOLDER = Path(__file__).parent / "assets"
TRIED = [Request("a photo of a cat", 0), Request("two dogs", 1)]
FEW = 2  # steps, after which a mixture of two images shows
# A black image in place of a sample is no sample, and SDXL marks its own wherever invisible-watermark is installed.
UNUSED = ("safety_checker", "watermark", "watermarker")
MAX_DIFFERENCE = 0.01  # of 0 to 1, on average: between batches of two sizes, in half precision too


class SchedulerChange(Part):
    """A scheduler of diffusers by its class; what else is given differs from the model's own settings."""

    model_config = ConfigDict(extra="allow")

    name: Annotated[str, Field(alias="class")]


class Baseline(Part):
    """How a model is to be sampled.

    Attributes:
        model: a diffusers folder or hub id; revision, variant: of a hub model.
        config: of a model in one file, as a recipe's `model.config`.
        network: weights that replace the denoiser's, a file or `org/name/file` of the hub.
        scheduler: None keeps the model's own.
        call: arguments of the pipeline's call; its defaults hold for the rest.
        dtype: on a GPU, by default float16, and bfloat16 for pipelines of no family here; a CPU computes in float32.
        source: who prescribes this.
    """

    model: str
    revision: str | None = None
    variant: str | None = None
    config: str | None = None
    network: str | None = None
    scheduler: SchedulerChange | None = None
    call: dict[str, Any] = {}
    dtype: Literal["float16", "bfloat16", "float32"] | None = None
    source: str = ""


def baseline_names() -> list[str]:
    """Those that ship."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_baseline(name: str) -> Baseline | None:
    """A shipped baseline or a YAML file, None for names of another kind.

    Raises:
        UserError: unreadable file, unknown field, wrong type, or the config of a run.
    """
    path = FOLDER / f"{name}.yaml" if name in baseline_names() else Path(name)
    if path.suffix not in (".yaml", ".yml"):
        return None
    if path.name == RUN_CONFIG and path.is_file() and run_of(path.parent) is not None:
        refuse_file(path)
    return checked(Baseline, read_yaml(path, "baseline", FOLDER), f"baseline {path}")


class PipelineSampler:
    """Images by a diffusers pipeline's own call, each from its own seed; the interface of `generate.Sampler`.

    What an image costs follows from the call where the family is known; else one image is made and counted, and two
    are made in a few steps, to see whether they can be made together.

    Attributes:
        nfe: network evaluations an image costs, guidance and second-order steps included; num_inference_steps: steps.
        dtype: of the network. how_sha256: of all that decides the pixels beside weights, prompt and seed.
        tokenizer, max_sequence_length: of the text encoder that sees most of a prompt.
        has_filter: whether the folder has a safety checker, which is not run. family: where it is one of ours.
    Raises:
        UserError: a model that cannot be loaded or that no prompt alone is enough for, or steps beside `timesteps` or
            `sigmas` of another number.
    """

    def __init__(self, baseline: Baseline, steps: int | None = None) -> None:
        self.folder = resolve_model(baseline.model, baseline.revision, baseline.variant, baseline.config)
        self._where = f"model {baseline.model}"
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._kind = read_index(self.folder, any_class=True).class_name
        check_class(self._where, self._kind)
        self.family = family = FAMILIES.get(self._kind)
        asked_dtype = baseline.dtype or (family.half if family else "bfloat16")
        dtype = getattr(torch, asked_dtype) if device == "cuda" else torch.float32
        self.pipeline = _pipeline(self.folder, baseline, dtype)
        self.has_filter = getattr(self.pipeline, "safety_checker", None) is not None
        for name in UNUSED:
            if getattr(self.pipeline, name, None) is not None:
                setattr(self.pipeline, name, None)
        self.pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self.networks = denoisers_of(self.pipeline)
        self.dtype = next((p.dtype for network in self.networks for p in network.parameters()), dtype)
        listed = {name: baseline.call[name] for name in ("timesteps", "sigmas") if baseline.call.get(name) is not None}
        remedy = "mend `call`" if baseline.call else "give a baseline .yaml with a `call` that it takes"
        self._refused = f"{self._where}: its call is refused by {self._kind}", remedy
        self._call = baseline.call | ({} if steps is None or listed else {"num_inference_steps": steps})
        asked = checked_call(self.pipeline, self._call)
        self._takes_lists = takes_lists(self.pipeline)
        count = self._counted if family and family.cost_is_told else self._tried
        self.num_inference_steps, self.nfe = count(asked, listed)
        if steps not in (None, self.num_inference_steps):
            what = f"the {next(iter(listed))} of {baseline.model} make {self.num_inference_steps}"
            raise UserError(f"--steps {steps}: {what}; leave it out")
        self.tokenizer, self.max_sequence_length = longest_text(self.pipeline, asked.get("max_sequence_length"))
        network = file_sha256(weights_file(baseline.network)) if baseline.network else None
        how = {"network": network, "scheduler": _settings(baseline.scheduler), "dtype": str(dtype), "call": self._call}
        self.how_sha256 = hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()

    @torch.inference_mode()
    def __call__(self, requests: list[Request], batch_size: int = 32) -> Tensor:
        """uint8 images [N, 3, H, W], one per request, in order."""
        batch_size = batch_size if self._takes_lists else 1
        images = []
        for start in range(0, len(requests), batch_size):
            batch = requests[start : start + batch_size]
            with refusing(*self._refused):
                made = self._made(batch)
            check_finite(made, batch)
            images.append((made * 255).round().byte().permute(0, 3, 1, 2))
        return torch.cat(images)

    def _made(self, batch: list[Request], **changes: Any) -> Tensor:
        """Images [B, H, W, 3] in [0, 1]; `changes`: to the call."""
        prompts = [r.prompt for r in batch]
        generators: Any = [torch.Generator().manual_seed(r.seed) for r in batch]
        drawn = {"prompt": prompts} if self.family is None else self.family.call_prompts(self.pipeline, prompts)
        if not self._takes_lists:
            drawn, (generators,) = {"prompt": prompts[0]}, generators
        made = self.pipeline(**drawn, generator=generators, output_type="np", **self._call | changes)
        images = np.asarray(made.images) if hasattr(made, "images") else np.empty(0)
        if images.ndim != 4 or images.shape[-1] != 3 or len(images) != len(batch):
            raise ValueError(f"it makes no RGB image for each prompt, but {type(made).__name__} {images.shape}")
        return torch.from_numpy(images)

    def _counted(self, asked: dict[str, Any], listed: dict[str, Any]) -> tuple[int, int]:
        """(steps, NFE) of a known family, by its scheduler and guidance."""
        steps = asked["num_inference_steps"]
        num = evaluations(self.pipeline.scheduler, listed or {"num_inference_steps": steps})
        guided = asked["guidance_scale"] > 1 and not family_of(self.pipeline).embeds_guidance(self.pipeline)
        return num if listed else steps, num * (2 if guided else 1)

    @torch.inference_mode()
    def _tried(self, asked: dict[str, Any], listed: dict[str, Any]) -> tuple[int, int]:
        """(steps, NFE) of any other pipeline, by an image that it makes; then whether it makes two at a time.

        Raises:
            UserError: it makes none from a prompt alone.
        """
        wanted = [name for name in asked if name in ("image", "images", "reference_image")]
        problem = f"draws nothing from a prompt alone{', and takes ' + wanted[0] if wanted else ''}"
        with (
            refusing(f"{self._where}: a {self._kind} {problem}", f"{REMEDY}, or mend `call`"),
            counting_rows(self.networks) as rows,
        ):
            self._made(TRIED[:1])
        nfe, steps = sum(rows), asked.get("num_inference_steps")
        steps = len(self.pipeline.scheduler.timesteps) if listed else steps
        few = {"num_inference_steps": min(steps, FEW)} if steps and not listed else {}
        self._takes_lists = self._takes_lists and self._draws_alike(few)
        return steps or nfe, nfe

    def _draws_alike(self, few: dict[str, int]) -> bool:
        """Whether an image is the same beside another one: some calls mix what they take as lists, or fail."""
        try:
            (alone,), (beside, _) = self._made(TRIED[:1], **few), self._made(TRIED, **few)
        except Exception:  # whatever a pipeline raises: alone it drew one
            return False
        return bool((alone - beside).abs().mean() < MAX_DIFFERENCE)


def _pipeline(folder: Path, baseline: Baseline, dtype: torch.dtype) -> Any:
    """The pipeline with the baseline's network and scheduler, safetensors only."""
    import diffusers

    pipeline = open_pipeline(folder, baseline.variant, dtype, dtype, any_class=True)
    if baseline.network:
        replace_network(pipeline, baseline.network)
    with refusing(f"baseline {baseline.model}: its scheduler cannot be made", "mend `scheduler`"):
        if changes := _settings(baseline.scheduler):
            name = changes.pop("class")
            scheduler = getattr(diffusers, name, None)
            if not (inspect.isclass(scheduler) and issubclass(scheduler, diffusers.SchedulerMixin)):
                raise ValueError(f"scheduler.class: {name} is no scheduler of diffusers")
            pipeline.scheduler = cast(Any, scheduler).from_config(pipeline.scheduler.config, **changes)
    return pipeline


def _settings(scheduler: SchedulerChange | None) -> dict[str, Any] | None:
    return None if scheduler is None else scheduler.model_dump(by_alias=True)
