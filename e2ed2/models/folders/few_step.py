"""Models that others made for few steps: how many, with which solver, at which guidance; `assets/few_step.yaml`."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from e2ed2.system.readers.typed import Part, checked
from e2ed2.system.readers.yaml_file import read_yaml

FILE = Path(__file__).parent / "assets" / "few_step.yaml"


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class FewStepCall:
    """The call that a model was made for.

    Attributes:
        solver: ours, one of `samplers.SOLVERS`. guidance_scale: 1 is none.
        any_steps: whether every number of steps up to `num_inference_steps` is served, or this one alone.
        source: who prescribes this. side: of its images in pixels; None: the network's own.
        shift: of a flow's noise levels; None: the start's own. lora_scale: at which an adapter is added.
    """

    num_inference_steps: Annotated[int, Field(ge=1)]
    solver: str
    guidance_scale: Annotated[float, Field(ge=1)]
    any_steps: bool
    source: str
    side: Annotated[int, Field(ge=1)] | None = None
    shift: Annotated[float, Field(gt=0)] | None = None
    lora_scale: Annotated[float, Field(gt=0)] | None = None


class Named(Part):
    """Known by a hub id, or by one file of the hub as `org/name/file`."""

    names: list[str]
    call: FewStepCall


class Look(Part):
    """Known by the classes of pipeline (None: any) and scheduler, and the spacing of its timesteps (None: any)."""

    pipelines: list[str] | None = None
    scheduler: str
    spacing: str | None = None
    call: FewStepCall


class Table(Part):
    """`assets/few_step.yaml`."""

    named: list[Named]
    looks: list[Look]


@cache
def few_step_table() -> Table:
    """All that ship."""
    return checked(Table, read_yaml(FILE, "few-step models", FILE.parent), f"few-step models {FILE}")


def known_scale(adapter: str) -> float | None:
    """The scale at which an adapter is to be added, None for those of which it is not known."""
    entries = (entry for entry in few_step_table().named if any(_is(adapter, known) for known in entry.names))
    return next((entry.call.lora_scale for entry in entries), None)


def known_call(
    names: Sequence[str], pipeline_class: str, scheduler_config: Mapping[str, Any]
) -> FewStepCall | None:
    """The call of a start that is known to be made for few steps, None for any other.

    Args:
        names: of model, network and adapters, in the order they are put together: the last that is known decides.
        pipeline_class, scheduler_config: of the pipeline, as in `model_index.json` and `scheduler_config.json`; they
            decide where no name is known.
    """
    table = few_step_table()
    for name in reversed(names):
        for entry in table.named:
            if any(_is(name, known) for known in entry.names):
                return entry.call
    scheduler, spacing = scheduler_config.get("_class_name"), scheduler_config.get("timestep_spacing")
    for look in table.looks:
        is_class = look.scheduler == scheduler and (look.pipelines is None or pipeline_class in look.pipelines)
        if is_class and look.spacing in (None, spacing):
            return look.call
    return None


def _is(name: str, known: str) -> bool:
    """Whether a name is a known one, a file in it, or a known file that lies elsewhere."""
    is_file = known.endswith(".safetensors")
    return name == known or name.startswith(f"{known}/") or (is_file and Path(name).name == Path(known).name)
