"""Configs of models without their weights: those of a folder, or those that ship for the models that recipes name."""

from pathlib import Path

from e2ed2.models.folders.bundled import BUNDLED, resolve_model
from e2ed2.models.folders.parts import INDEX_FILE
from e2ed2.system.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"


def configs_of(name: str) -> Path:
    """The folder of a model's configs: a model folder's own, a bundled model's, or those that ship for a hub id.

    Raises:
        UserError: none of these.
    """
    shipped = CONFIGS / name.replace("/", "--")
    if name in BUNDLED or (Path(name) / INDEX_FILE).is_file():
        return resolve_model(name)
    if (shipped / INDEX_FILE).is_file():
        return shipped
    known = ", ".join(sorted(path.name.replace("--", "/") for path in CONFIGS.iterdir()))
    fetch = f"fetch them with `hf download {name} --include '*.json' --local-dir DIR` and give model.path=DIR"
    raise UserError(f"model.path: {name}: its configs are not here; {fetch} (here are {known})")
