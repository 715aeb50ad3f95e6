"""What to type after a run: to go on, to draw, to measure; and what its recipe says that the defaults do not."""

import json
import shlex
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from e2ed2.recipe.config import Config
from e2ed2.recipe.load import flatten
from e2ed2.reports.run_state import Told


def differences(settings: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(field, value, default) of what a recipe sets otherwise; none of one that is broken."""
    try:
        defaults = flatten(Config(stage=settings["stage"], run=settings["run"]).model_dump(mode="json"))
        now = flatten(Config.model_validate(settings).model_dump(mode="json"))
    except (ValidationError, KeyError):
        return []
    return [
        (name, _text(value), _text(defaults.get(name)))
        for name, value in now.items()
        if value != defaults.get(name) and name not in ("stage", "run.dir")
    ]


def commands(run_dir: Path, settings: dict[str, Any], state: Told, caption: str | None) -> list[tuple[str, str]]:
    """(What for, what to type); nothing where the recipe is broken.

    Args:
        caption: to draw, where the model draws.
    """
    try:
        config = Config.model_validate(settings)
    except ValidationError:
        return []
    recipe, model, other = (_quoted(run_dir / "config.yaml"), run_dir / "model", Path(f"{run_dir}-2"))
    train, steps = f"e2ed2 train {recipe}", config.train.max_train_steps
    rows = []
    if not model.is_dir() or state.doing != "finished":
        again = shlex.join(state.command) if state.command[1:2] in (["train"], ["finetune"]) else train
        rows.append(("if it should stop, go on" if state.is_live else "go on", again))
    elif config.train.lr_schedule == "constant":
        rows.append(("train on", f"{train} train.max_train_steps={max(steps, state.step) * 2}"))
    elif config.model.architecture is None:  # a schedule that ended: from the model that it left
        go_on = f"{train} {_field('model.path', model)} {_field('run.dir', other)}"
        rows.append(("train on, in another folder", go_on))
    if model.is_dir() and config.stage != "autoencoder":
        rows.append(("draw", f"e2ed2 sample {_quoted(model)} {_quoted(caption or 'your words')} --num 4"))
        rows.append(("measure", f"e2ed2 evaluate {_quoted(model)} --protocol PROTOCOL"))
    return [*rows, ("train again, in another folder", f"{train} {_field('run.dir', other)}")]


def _field(name: str, value: Path) -> str:
    return _quoted(f"{name}={value}")


def _quoted(value: Any) -> str:
    return shlex.quote(str(value))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
