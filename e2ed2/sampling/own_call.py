"""The call of a diffusers pipeline: whether it draws from a prompt alone, its arguments, what an image costs."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn

from e2ed2.system.errors import UserError, check_range, said
from e2ed2.system.readers.typed import in_words

DRAWN = ("prompt", "class_labels")  # what a call is told to draw
SET_HERE = {*DRAWN, "generator", "output_type", "return_dict", "num_images_per_prompt"}
ANY_TYPE = ConfigDict(arbitrary_types_allowed=True)
OF_AN_IMAGE = {"strength", "mask_image", "control_image", "image_guidance_scale"}  # what only goes with a picture
REMEDY = "give a text-to-image pipeline"


def check_class(where: str, class_name: str) -> None:
    """Before weights are read: whether a class of pipelines draws images from prompts.

    Raises:
        UserError: it does not, as far as its call tells; or diffusers has none of this name.
    """
    import diffusers

    kind = getattr(diffusers, class_name, None)
    if not (inspect.isclass(kind) and issubclass(kind, diffusers.DiffusionPipeline)):
        version = f"diffusers {diffusers.__version__}"
        raise UserError(f"{where}: {class_name[:80]} is no pipeline of {version}, or needs packages that are missing")
    parameters = inspect.signature(kind.__call__).parameters
    needed = [n for n, p in parameters.items() if "image" in n and p.default is p.empty and p.kind != p.VAR_KEYWORD]
    if not parameters.keys() & set(DRAWN):
        raise UserError(f"{where}: a {class_name} takes no prompt; {REMEDY}")
    if other := next((name for name in parameters if name == "num_frames" or "video" in name or "audio" in name), None):
        raise UserError(f"{where}: a {class_name} makes no images, but what has {other}; {REMEDY}")
    if needed or OF_AN_IMAGE & parameters.keys() or "controlnet" in inspect.signature(kind.__init__).parameters:
        raise UserError(f"{where}: a {class_name} needs an image beside the prompt; {REMEDY}")


def checked_call(pipeline: Any, call: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a pipeline's call, those of `call` beside its defaults.

    Raises:
        UserError: one that the call does not have, that is set here, or of another type.
    """
    parameters = {n: p for n, p in inspect.signature(pipeline.__call__).parameters.items() if n not in SET_HERE}
    hints = _hints(pipeline)
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
    if asked.get("num_inference_steps") is not None:
        check_range("call.num_inference_steps", asked["num_inference_steps"], 1, 1000)
    return asked


def takes_lists(pipeline: Any) -> bool:
    """Whether the call says that it takes several prompts, each with a generator of its own."""
    hints = _hints(pipeline)
    drawn = next(name for name in DRAWN if name in hints or name == DRAWN[-1])
    return all("list[" in str(hints.get(name)).lower() for name in (drawn, "generator"))


def evaluations(scheduler: Any, grid: dict[str, Any]) -> int:
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


@contextmanager
def counting_rows(networks: list[nn.Module]) -> Iterator[list[int]]:
    """Meanwhile every evaluation of the networks adds its number of rows to the list."""
    rows: list[int] = []
    hooks = [network.register_forward_hook(lambda _, inputs, out: rows.append(len(out[0]))) for network in networks]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()


def longest_text(pipeline: Any, most: int | None) -> tuple[Any, int]:
    """(tokenizer, tokens) of the text encoder that sees most of a prompt; None and 0 where there is none.

    Args:
        most: the call's `max_sequence_length`, where it has one.
    """
    parts = [part for name, part in pipeline.components.items() if name.startswith("tokenizer")]
    tokenizers = [part for part in parts if hasattr(part, "model_max_length")]
    limits = [(min(t.model_max_length, most or t.model_max_length), t) for t in tokenizers]
    length, tokenizer = max(limits, key=lambda pair: pair[0], default=(0, None))
    return tokenizer, length


def _hints(pipeline: Any) -> dict[str, Any]:
    """The types of a call's arguments, as far as they can be had."""
    call = cast(Any, type(pipeline)).__call__
    try:
        return get_type_hints(call)
    except NameError:  # a type that is imported only for a type checker
        return {}
