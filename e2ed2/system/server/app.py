"""An app of pages: routes, static files, and what is answered to values that nobody understands."""

from collections.abc import Callable, Iterable

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from e2ed2.system.server.static import StaticFiles


def app_of(
    routes: Iterable[APIRouter], files: Callable[[], StaticFiles], refuse: Callable[[Request, Exception], Response]
) -> FastAPI:
    """An app without pages about itself.

    Args:
        files: served under `/static/`. refuse: answers an HTTPException.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    for router in routes:
        app.include_router(router)
    app.add_exception_handler(HTTPException, refuse)
    app.add_exception_handler(RequestValidationError, _refuse_values)

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if (response := files().response(name)) is None:
            raise HTTPException(404)
        return response

    return app


def _refuse_values(request: Request, error: Exception) -> Response:
    """Without what was sent: a page of ours never repeats it."""
    return JSONResponse({"error": "not understood"}, 422)
