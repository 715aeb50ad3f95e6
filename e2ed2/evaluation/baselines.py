"""Models as their authors prescribe them: a plain diffusers pipeline, its scheduler and the arguments of its own call.

Those of Table 1 ship in `assets/baselines/`; `e2ed2 evaluate my.yaml` takes any other.
"""

import hashlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file
from torch import Tensor

from e2ed2.errors import UserError, first_line
from e2ed2.evaluation.generate import Request
from e2ed2.files import file_sha256
from e2ed2.models.bundled import resolve_model
from e2ed2.models.families import family_of, network_of
from e2ed2.models.pipeline import LOADING_ERRORS, refuse_pickles

FOLDER = Path(__file__).parent / "assets" / "baselines"


class Baseline(BaseModel):
    """How a model is to be sampled.

    Attributes:
        model: a diffusers folder or hub id; revision, variant: of a hub model.
        network: weights that replace the denoiser's, a file or `org/name/file` of the hub.
        scheduler: `class` and what differs from the model's own settings; None keeps its own.
        call: arguments of the pipeline's call; its defaults hold for the rest.
        dtype: on a GPU; a CPU computes in float32.
        source: who prescribes this.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    revision: str | None = None
    variant: str | None = None
    network: str | None = None
    scheduler: dict[str, Any] | None = None
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
    try:
        return Baseline.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"baseline {path}: not a readable YAML file; copy one of {FOLDER}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"baseline {path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


class PipelineSampler:
    """Images by a diffusers pipeline's own call, each from its own seed; the interface of `generate.Sampler`.

    Attributes:
        nfe: network evaluations an image costs, guidance included; num_inference_steps: steps.
        how_sha256: of all that decides the pixels beside weights, prompt and seed.
    """

    def __init__(self, baseline: Baseline, steps: int | None = None) -> None:
        self.folder = resolve_model(baseline.model, baseline.revision, baseline.variant)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = getattr(torch, baseline.dtype) if device == "cuda" else torch.float32
        self.pipeline = _pipeline(self.folder, baseline, dtype).to(device)
        self.pipeline.set_progress_bar_config(disable=True)
        self._call = baseline.call | ({} if steps is None else {"num_inference_steps": steps})
        defaults = {name: p.default for name, p in inspect.signature(self.pipeline.__call__).parameters.items()}
        asked = defaults | self._call
        self.num_inference_steps = asked["num_inference_steps"]
        guided = asked["guidance_scale"] > 1 and not family_of(self.pipeline).embeds_guidance(self.pipeline)
        self.nfe = self.num_inference_steps * (2 if guided else 1)
        network = file_sha256(_network_file(baseline.network)) if baseline.network else None
        how = {"network": network, "scheduler": baseline.scheduler, "dtype": str(dtype), "call": self._call}
        self.how_sha256 = hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()

    @torch.inference_mode()
    def __call__(
        self, requests: list[Request], batch_size: int = 32, progress: Callable[[int, int], None] | None = None
    ) -> Tensor:
        """uint8 images [N, 3, H, W], one per request, in order."""
        images = []
        for start in range(0, len(requests), batch_size):
            batch = requests[start : start + batch_size]
            generators = [torch.Generator().manual_seed(r.seed) for r in batch]
            prompts = [r.prompt for r in batch]
            made = self.pipeline(prompts, generator=generators, output_type="np", **self._call).images
            images.append(torch.from_numpy((made * 255).round().astype("uint8")).permute(0, 3, 1, 2))
            if progress:
                progress(start + len(batch), len(requests))
        return torch.cat(images)


def _pipeline(folder: Path, baseline: Baseline, dtype: torch.dtype) -> Any:
    """The pipeline with the baseline's network and scheduler, safetensors only, without a filter of its outputs."""
    import diffusers

    refuse_pickles(folder)
    try:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, variant=baseline.variant, dtype=dtype
        )
        if baseline.network:
            network_of(pipeline).load_state_dict(load_file(_network_file(baseline.network)))
        if baseline.scheduler:
            changes = dict(baseline.scheduler)
            scheduler = getattr(diffusers, changes.pop("class"))
            pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, **changes)
    except (*LOADING_ERRORS, KeyError) as error:
        raise UserError(f"baseline {baseline.model}: cannot be loaded ({first_line(error)})") from error
    if getattr(pipeline, "safety_checker", None) is not None:
        pipeline.safety_checker = None  # a black image in place of a sample is no sample
    return pipeline


def _network_file(name: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    from huggingface_hub import hf_hub_download

    organisation, repository, file = name.split("/", 2)
    try:
        return Path(hf_hub_download(f"{organisation}/{repository}", file))
    except Exception as error:  # of the hub or of its HTTP library
        raise UserError(
            f"network {name}: no such file, and not to be had from the hub ({first_line(error)}); "
            f"fetch it elsewhere with `hf download {organisation}/{repository} {file}` and give the file"
        ) from error
