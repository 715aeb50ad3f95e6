"""Try it: a prompt, and what models make of it, side by side."""

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import Response

from e2ed2.models.folders.bundled import BUNDLED
from e2ed2.models.folders.card import PROMPT
from e2ed2.system.errors import UserError
from e2ed2.system.server.forms import Fields
from e2ed2.web.app.desk import AtDesk
from e2ed2.web.app.pages import page

routes = APIRouter(prefix="/try")


@routes.get("")
def form(desk: AtDesk, model: str = BUNDLED[-1], prompt: str = PROMPT) -> Response:
    """Where to ask; the model that is chosen is loaded meanwhile."""
    models = desk.painter.models()
    chosen = model if model in models else BUNDLED[-1]
    desk.painter.warm(chosen)
    return page("try.html.j2", here="try", models=models, chosen=chosen, prompt=prompt)


@routes.post("/draw")
def draw(desk: AtDesk, fields: Fields) -> Response:
    """One picture of one model."""
    numbers = [fields.get(name, "") for name in ("seed", "steps")]
    if not all(number.isdecimal() and len(number) < 12 for number in numbers):
        raise UserError("seed, steps: give whole numbers")
    drawn = desk.painter.draw(fields.get("model", ""), fields.get("prompt", ""), *map(int, numbers))
    return page("drawn.html.j2", drawn=drawn, name=desk.painter.models().get(drawn.model, drawn.model))


@routes.get("/picture/{key}.png")
def picture(desk: AtDesk, key: str) -> Response:
    """A picture that was drawn, with its label."""
    try:
        drawn = desk.painter.picture(key)
    except KeyError:
        raise HTTPException(404) from None
    return Response(drawn.png, media_type="image/png")
