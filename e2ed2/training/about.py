"""What a finished run says of itself in its model's card."""

from collections.abc import Mapping
from typing import Any

from e2ed2.models.folders.bundled import BUNDLED, resolve_model
from e2ed2.models.folders.card import licence_of
from e2ed2.models.folders.origin import is_public, origin_of
from e2ed2.recipe.config import Config, ModelConfig
from e2ed2.recipe.data import DataConfig, SourceConfig


def about_run(config: Config, weights: Mapping[str, float]) -> dict[str, Any]:
    """Rows of the card: start, data, recipe. Paths of this machine are left out.

    Args:
        weights: of the terms that the stage trained with, which may be fewer than the recipe's.
    """
    trajectory, train = config.trajectory, config.train
    num_captions = train.micro_batch_size * train.gradient_accumulation_steps
    rows = {
        **_start(config.model),
        "stage": config.stage,
        "data": ", ".join([*_sources(config.data), f"{config.data.size} px"]),
        "trajectory": f"{trajectory.num_inference_steps} steps, start {trajectory.start}, {trajectory.parameters}",
        "objective": ", ".join(f"{weight:g} {name}" for name, weight in weights.items()),
        "training": f"at most {train.max_train_steps} updates of {num_captions} captions per device, "
        f"learning rate {train.lr:g}, average {train.ema_decay:g}, {train.mixed_precision} mixed precision",
    }
    return {name: value for name, value in rows.items() if value}


def _start(model: ModelConfig) -> dict[str, str]:
    """What the run began from: the licence that its card names, and a name under which others find it."""
    if model.architecture is not None:
        return {"start": "random weights"}
    named, folder = str(model.path), resolve_model(str(model.path), model.revision, model.variant, model.config)
    base = named if named in BUNDLED or is_public(named) else origin_of(folder, BUNDLED)
    return {**licence_of(folder), **({"base_model": base} if base else {"start": "a local model"})}


def _sources(data: DataConfig) -> list[str]:
    """Kinds of sources, and the names of public ones."""
    sources: list[SourceConfig] = [*data.sources] or [data]
    is_named = [source.source == "hub" and is_public(str(source.path)) for source in sources]
    return [f"hub {s.path}" if named else s.source for s, named in zip(sources, is_named, strict=True)]
