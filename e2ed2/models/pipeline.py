"""Model folders: diffusers pipelines that plain diffusers loads, with the exact call in `inference.json`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors import SafetensorError
from torch import nn

from e2ed2.errors import UserError
from e2ed2.models.text import MAX_SEQUENCE_LENGTH, minilm_folder
from e2ed2.schedule import NoiseSchedule, lcm_timesteps, trailing_timesteps, variance_preserving

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ModelMixin, PixArtAlphaPipeline, SchedulerMixin

LOADING_ERRORS = (OSError, ValueError, TypeError, AttributeError, RuntimeError, SafetensorError)  # of damaged folders
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
BETAS = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000}
ORIGINAL_INFERENCE_STEPS = 50


@dataclass(frozen=True)
class Inference:
    """The call a model was made for, in the pipeline's own words; `solver` is `lcm` or `ddim`.

    `timesteps`: a learned grid for `num_inference_steps` steps; other numbers of steps keep the solver's own.
    `transformers`: where each step has a network of its own, their subfolders in order.
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
    transformers: list[str] | None = None

    def __post_init__(self) -> None:
        if self.solver not in ("lcm", "ddim") or not isinstance(self.num_inference_steps, int):
            raise ValueError(f"inference.json: solver {self.solver}, {self.num_inference_steps} steps")
        if self.timesteps is not None and len(self.timesteps) != self.num_inference_steps:
            raise ValueError(f"inference.json: {self.num_inference_steps} steps, but timesteps {self.timesteps}")
        if self.transformers is not None and len(self.transformers) != self.num_inference_steps:
            raise ValueError(f"inference.json: {self.num_inference_steps} steps, but transformers {self.transformers}")

    @property
    def evaluations_per_step(self) -> int:
        return 1 if self.guidance_scale <= 1 else 2

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
        if self.timesteps is not None and steps == self.num_inference_steps:
            return torch.tensor(self.timesteps)
        try:
            if self.solver == "lcm":
                return lcm_timesteps(steps, original_inference_steps=ORIGINAL_INFERENCE_STEPS)
            return trailing_timesteps(steps)
        except ValueError as error:
            raise UserError(str(error)) from error


def noise_scheduler(solver: str, prediction_type: str) -> "SchedulerMixin":
    """The diffusers scheduler that does what our solver does, its betas spelled out."""
    from diffusers import DDIMScheduler, LCMScheduler

    if solver == "lcm":
        return LCMScheduler(**BETAS, original_inference_steps=ORIGINAL_INFERENCE_STEPS, prediction_type=prediction_type)
    return DDIMScheduler(**BETAS, clip_sample=False, timestep_spacing="trailing", prediction_type=prediction_type)


def schedule_of(pipeline: "PixArtAlphaPipeline") -> NoiseSchedule:
    """The noise schedule of a loaded pipeline."""
    return variance_preserving(pipeline.scheduler.alphas_cumprod)


def assemble(
    transformer: nn.Module, autoencoder: "AutoencoderKL", scheduler: "SchedulerMixin"
) -> "PixArtAlphaPipeline":
    """A PixArt pipeline with MiniLM as its text encoder."""
    from diffusers import PixArtAlphaPipeline
    from transformers import AutoTokenizer, BertModel

    folder = minilm_folder()
    return PixArtAlphaPipeline(
        tokenizer=AutoTokenizer.from_pretrained(folder),
        text_encoder=BertModel.from_pretrained(folder),
        vae=autoencoder,
        transformer=transformer,
        scheduler=scheduler,
    )


def save_pipeline(
    pipeline: "PixArtAlphaPipeline", inference: Inference, folder: Path, later_transformers: Sequence[nn.Module] = ()
) -> None:
    """Write the pipeline (safetensors), a card with the exact call, and `inference.json` (last: it marks the end).

    Args:
        later_transformers: of the steps after the first, where each has its own.
    """
    pipeline.save_pretrained(folder, safe_serialization=True)
    if later_transformers:
        names = [f"transformer_{k}" for k in range(2, 2 + len(later_transformers))]
        inference = replace(inference, transformers=["transformer", *names])
        for name, transformer in zip(names, later_transformers, strict=True):
            cast("ModelMixin", transformer).save_pretrained(folder / name, safe_serialization=True)
    forget_origin(folder)
    (folder / "README.md").write_text(model_card(inference))
    (folder / "inference.json").write_text(json.dumps(asdict(inference), indent=1) + "\n")


def forget_origin(folder: Path) -> None:
    """Remove from the configs what diffusers notes there: where on this machine the weights were loaded from."""
    for path in folder.rglob("*.json"):
        config = json.loads(path.read_text())
        if isinstance(config, dict) and config.pop("_name_or_path", None):
            path.write_text(json.dumps(config, indent=2) + "\n")


def model_card(inference: Inference) -> str:
    """How to call the model with plain diffusers."""
    steps = f"num_inference_steps={inference.num_inference_steps}"
    if inference.timesteps is not None:
        steps = f"timesteps={inference.timesteps}"
    imports, swap, callback = "from diffusers import DiffusionPipeline", "", ""
    if inference.transformers is not None:  # the pipeline runs one; after each step the next takes its place
        imports += ", PixArtTransformer2DModel"
        swap = f"""names = {inference.transformers}
networks = [PixArtTransformer2DModel.from_pretrained("THIS FOLDER", subfolder=name) for name in names]


def use_next(step, timestep, latents):
    pipeline.transformer = networks[(step + 1) % len(networks)]


"""
        callback = "    callback=use_next,\n"
    return f"""# A few-step model made with e2ed2

A pipeline's call has defaults of its own (20 steps, guidance on); this model wants {inference.nfe} network evaluations:

```python
{imports}

pipeline = DiffusionPipeline.from_pretrained("THIS FOLDER")
{swap}image = pipeline(
    "red apple, twemoji style",
    {steps},
    guidance_scale={inference.guidance_scale},
    height={inference.height},
    width={inference.width},
    use_resolution_binning={inference.use_resolution_binning},
    clean_caption={inference.clean_caption},
    max_sequence_length={inference.max_sequence_length},
{callback}).images[0]
```

`e2ed2 sample THIS_FOLDER "a prompt"` follows `inference.json`. Images it makes are synthetic: label them so.
"""


def load_pipeline(folder: Path) -> tuple["PixArtAlphaPipeline", Inference]:
    """(pipeline, Inference) of a model folder; nothing is unpickled and nothing is downloaded.

    Raises:
        UserError: no such folder, a pickle in it, or not a pipeline.
    """
    from diffusers import DiffusionPipeline

    refuse_pickles(folder)
    try:
        inference = Inference(**json.loads((folder / "inference.json").read_text()))
        pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except LOADING_ERRORS as error:
        raise UserError(f"model {folder}: not a loadable model folder ({_first_line(error)})") from error
    return pipeline, inference


def load_transformers(
    folder: Path, pipeline: "PixArtAlphaPipeline", inference: Inference
) -> list[nn.Module]:
    """The networks of a loaded pipeline: one for all steps, or one for each.

    Raises:
        UserError: one of them is missing or damaged.
    """
    from diffusers import PixArtTransformer2DModel

    transformers: list[nn.Module] = [pipeline.transformer]
    for name in (inference.transformers or [])[1:]:
        try:
            later = PixArtTransformer2DModel.from_pretrained(
                folder / name, local_files_only=True, use_safetensors=True
            )
        except LOADING_ERRORS as error:
            raise UserError(f"model {folder}: {name} is not a loadable network ({_first_line(error)})") from error
        transformers.append(later.to(pipeline.device))
    return transformers


def load_autoencoder(folder: Path) -> "AutoencoderKL":
    """The autoencoder of an `autoencoder` stage's model folder, frozen.

    Raises:
        UserError: no such folder, a pickle in it, or not an autoencoder.
    """
    from diffusers import AutoencoderKL

    refuse_pickles(folder)
    try:
        autoencoder = AutoencoderKL.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except LOADING_ERRORS as error:
        raise UserError(f"model {folder}: not an autoencoder folder ({_first_line(error)})") from error
    return autoencoder.eval().requires_grad_(False)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def refuse_pickles(folder: Path) -> None:
    """Raise UserError when the folder is missing or holds a file that loading could execute."""
    if not folder.is_dir():
        raise UserError(f"model {folder}: no such folder; give a model folder or emoji-base, emoji-lcm, emoji-e2ed2")
    bad = sorted(p for p in folder.rglob("*") if p.suffix in PICKLES)
    if bad:
        raise UserError(f"model {folder}: {bad[0].name} may run code when loaded; only safetensors are allowed")
