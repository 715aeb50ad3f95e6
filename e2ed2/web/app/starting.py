"""Start a fine-tune: what would be trained and on what is shown first."""

import shlex
import urllib.parse
from pathlib import Path

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from e2ed2.models.folders.bundled import BUNDLED
from e2ed2.sampling.baselines import baseline_names
from e2ed2.system.errors import UserError
from e2ed2.system.server.forms import Fields
from e2ed2.web.app.desk import AtDesk
from e2ed2.web.app.pages import page
from e2ed2.web.processes import checked_name

routes = APIRouter(prefix="/start")


@routes.get("")
def form(desk: AtDesk) -> Response:
    """Where to choose a model and a folder."""
    own = [name for name in desk.painter.models() if name not in BUNDLED]
    models = [*reversed(BUNDLED[1:]), *baseline_names(), *(str(desk.runs.folder / name) for name in own)]
    return page("start.html.j2", here="start", models=models, here_path=Path.cwd())


@routes.post("/look")
def look(desk: AtDesk, fields: Fields) -> Response:
    """What was found, and what would be trained."""
    name, arguments = _asked(fields)
    if (desk.runs.folder / name).exists():
        raise UserError(f"name '{name}': there is such a run already; give another")
    prompt, steps = fields.get("prompt", "").strip() or None, fields.get("steps", "").strip()
    found = desk.data.look(
        fields["model"].strip(), fields["data"].strip(), desk.runs.folder / name, prompt=prompt,
        steps=int(steps) if steps else None, overrides=_overrides(fields),
    )  # fmt: skip
    command = shlex.join(["e2ed2", "finetune", "--out", str(desk.runs.folder / name), *arguments])
    return page("found.html.j2", found=found, fields=fields, name=name, command=command)


@routes.get("/image/{key}/{row:int}")
def image(desk: AtDesk, key: str, row: int) -> Response:
    """One of the images that were found."""
    try:
        content = desk.data.picture(key, row)
    except KeyError:
        raise HTTPException(404) from None
    return Response(content, media_type="image/webp")


@routes.post("/go")
def go(desk: AtDesk, fields: Fields) -> Response:
    """Start it."""
    name, arguments = _asked(fields)
    desk.painter.forget()
    desk.processes.start(name, arguments)
    return RedirectResponse(f"/run/{urllib.parse.quote(name)}", 303)


def _asked(fields: dict[str, str]) -> tuple[str, list[str]]:
    """(Name of the run, what is typed behind `finetune`); no shell reads it, and nothing is taken for an option."""
    model, data = (fields.get(name, "").strip() for name in ("model", "data"))
    if not model or not data:
        raise UserError("model, folder: give both")
    prompt, steps = (fields.get(name, "").strip() for name in ("prompt", "steps"))
    if steps and not (steps.isdecimal() and len(steps) < 4):
        raise UserError(f"steps {steps[:20]!r}: give a whole number, or nothing for the model's own")
    options = [*(["--steps", steps] if steps else []), *([f"--prompt={prompt}"] if prompt else [])]
    return checked_name(fields.get("name", "").strip()), [*options, "--", model, data, *_overrides(fields)]


def _overrides(fields: dict[str, str]) -> list[str]:
    """Fields of the recipe, a line each; the number of updates has a field of its own."""
    updates = fields.get("updates", "").strip()
    if updates and not (updates.isdecimal() and len(updates) < 9):
        raise UserError(f"updates {updates[:20]!r}: give a whole number, or nothing for what is usual")
    more = [line.strip() for line in fields.get("overrides", "").splitlines() if line.strip()]
    return [*([f"train.max_train_steps={updates}"] if updates else []), *more]
