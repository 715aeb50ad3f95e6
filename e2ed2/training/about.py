"""What a finished run says of itself in its model's card."""

from typing import Any

from e2ed2.models.folders.bundled import BUNDLED, resolve_model
from e2ed2.models.folders.card import licence_of
from e2ed2.models.folders.hub import is_hub_id
from e2ed2.recipe.config import Config, ModelConfig, objective_weights
from e2ed2.recipe.data import DataConfig, SourceConfig


def about_run(config: Config) -> dict[str, Any]:
    """Rows of the card: start, data, recipe. Paths of this machine are left out."""
    model, trajectory, train = config.model, config.trajectory, config.train
    named = str(model.path) in BUNDLED or is_hub_id(str(model.path))
    rows = {
        **_licence(model),
        "base_model": model.path if named else None,
        "stage": config.stage,
        "data": ", ".join([*_sources(config.data), f"{config.data.size} px"]),
        "trajectory": f"{trajectory.num_inference_steps} steps, start {trajectory.start}, {trajectory.parameters}",
        "objective": ", ".join(f"{weight:g} {name}" for name, weight in objective_weights(config).items()),
        "training": f"{train.max_train_steps} updates of {train.micro_batch_size} captions per device, "
        f"learning rate {train.lr:g}, average {train.ema_decay:g}, {train.mixed_precision} mixed precision",
    }
    return {name: value for name, value in rows.items() if value}


def _sources(data: DataConfig) -> list[str]:
    """Kinds of sources, and the names of public ones."""
    sources: list[SourceConfig] = [*data.sources] or [data]
    return [f"{source.source} {source.path}" if source.source == "hub" else source.source for source in sources]


def _licence(model: ModelConfig) -> dict[str, str]:
    """Of the start, where there is one and its card names it."""
    if model.architecture is not None:
        return {}
    return licence_of(resolve_model(str(model.path), model.revision, model.variant))
