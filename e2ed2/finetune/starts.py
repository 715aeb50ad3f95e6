"""The few-step model that is moved: what it is made of, and how it is sampled; looked up, never guessed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2ed2.models.families import FAMILIES
from e2ed2.models.folders.bundled import resolve_model
from e2ed2.models.folders.few_step import FewStepCall, known_call, known_scale
from e2ed2.models.folders.index import read_index
from e2ed2.models.folders.inference import INFERENCE_FILE, inference_of
from e2ed2.models.folders.parts import read_config
from e2ed2.models.latent_spaces import space_named
from e2ed2.models.lora.fuse import at_scale
from e2ed2.recipe.config import ModelConfig
from e2ed2.sampling.baselines import read_baseline
from e2ed2.system.errors import UserError
from e2ed2.system.readers.typed import checked

MOST_STEPS = 8  # of what is called few-step


@dataclass(frozen=True)
class Start:
    """A few-step model and its sampler.

    Attributes:
        model: the recipe's section.
        folder: of the pipeline on disk.
        steps, solver, guidance_scale: of the sampler; None leaves the solver to what the scheduler tells, the scale to
            the model.
        any_steps: whether it serves any number of steps up to its own.
        side: of its images, pixels.
        why: where this is known from.
        cell: pixels along the side of a latent cell. shift: of a flow's noise levels; None: the model's.
        has_classes: whether a prompt is the name of one of its classes.
    """

    model: ModelConfig
    folder: Path
    steps: int
    solver: str | None
    guidance_scale: float | None
    any_steps: bool
    side: int
    why: str
    cell: int = 8
    shift: float | None = None
    has_classes: bool = False


def model_config(name: str, model: dict[str, Any]) -> ModelConfig:
    """A recipe's `model` section for what a user names; further fields as in `find_start`."""
    return checked(ModelConfig, {"path": name, **_of_baseline(name), **model}, "model")


def find_start(name: str, model: dict[str, Any], steps: int | None) -> Start:
    """The start that a user names, fetched if need be; its weights are not loaded.

    Args:
        name: a model folder, a hub id, a bundled model or a baseline (`sdxl-turbo`). model: further fields of a
            recipe's `model` section, such as `lora`, an acceleration adapter. steps: to take in place of its own.
    Raises:
        UserError: no such model; or one of which nobody knows in how many steps it is sampled, and `steps` is None.
    """
    config = model_config(name, model)
    config = config.model_copy(update={"lora": [_scaled(adapter) for adapter in config.lora]})
    folder = resolve_model(str(config.path), config.revision, config.variant, config.config)
    index = read_index(folder)
    family = FAMILIES[index.class_name]
    has_classes = family.has_classes
    network, autoencoder = (read_config(folder / part / "config.json") for part in (family.network, "vae"))
    side, cell = family.side(network, autoencoder), space_named(family.autoencoder).cell_side(autoencoder)
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json")
    names = [name, str(config.path), *([config.network] if config.network else [])]
    names += [adapter for adapter, _ in map(at_scale, config.lora)]
    call = known_call(names, index.class_name, scheduler)
    where = f"the table of known few-step models ({call.source})" if call else ""
    is_slow = "it is none of the few-step models that are known here"
    if (folder / INFERENCE_FILE).is_file():
        own = inference_of(folder / INFERENCE_FILE, {}, {})
        is_slow = f"it is made for {own.num_inference_steps} steps of {own.solver}"
        if own.num_inference_steps <= MOST_STEPS:
            where, scale = f"its {INFERENCE_FILE}", max(1.0, own.guidance_scale)
            any_steps = own.transformers is None
            call = FewStepCall(own.num_inference_steps, own.solver, scale, any_steps, where, own.height)
    if call is not None:
        why = f"{where}{_unlike(steps, call.num_inference_steps, call.any_steps)}"
        steps = steps or call.num_inference_steps
        scale, side = call.guidance_scale, call.side or side
        any_steps = call.any_steps
        return Start(config, folder, steps, call.solver, scale, any_steps, side, why, cell, call.shift, has_classes)
    if steps is None:
        raise UserError(
            f"model '{name}': {is_slow}; give --steps, the number that it is sampled in, or the adapter that makes it "
            "few-step (model.lora='[latent-consistency/lcm-lora-sdxl]'), or distil it first: `e2ed2 train emoji/lcm`"
        )
    why = f"--steps; {is_slow}, so that its first samples will be poor and it has to learn the steps too"
    return Start(config, folder, steps, None, None, True, side, why, cell, has_classes=has_classes)


def _scaled(adapter: str) -> str:
    """An adapter at the scale that the table knows for it, where the user gives none."""
    is_plain, scale = at_scale(adapter) == (adapter, 1.0), known_scale(adapter)
    return f"{adapter}@{scale:g}" if is_plain and scale is not None else adapter


def _unlike(steps: int | None, own: int, any_steps: bool) -> str:
    """What it means that other steps are asked than a model was made for; empty where it means nothing."""
    if steps in (None, own) or (any_steps and steps is not None and steps < own):
        return ""
    return f"; it is made for {own}, so that it has to learn the {steps} that are asked"


def _of_baseline(name: str) -> dict[str, Any]:
    """The fields of a baseline that is known by a name; nothing of another name."""
    baseline = read_baseline(name)
    fields = ("revision", "variant", "config", "network")
    return {} if baseline is None else {"path": baseline.model, **{name: getattr(baseline, name) for name in fields}}
