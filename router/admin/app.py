"""The FastAPI application: describes the pages at `/openapi.json`, and refuses what is not served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from policies.types import NOTHING
from router import __version__
from router.admin.pages import Pages
from router.edge import routes
from router.edge.replies import Reply, error_reply
from router.errors import METHOD_NOT_ALLOWED, ROUTE_NOT_FOUND, RouterError


def make_app(pages: Pages) -> FastAPI:
    """The application, complete: it serves the pages, too, where nothing stands before it."""
    app = FastAPI(title="Faregate", version=__version__, docs_url=None, redoc_url=None, openapi_url="/openapi.json", redirect_slashes=False)

    async def page(request: Request) -> Response:
        reply = await pages.answer(request.scope["path"], dict(request.headers.raw))
        # Every path below is a page.
        assert reply is not None  # noqa: S101
        return _response(reply)

    async def named_page(name: str, request: Request) -> Response:
        return await page(request)

    for path, meaning in routes.OTHERS.items():
        app.get(path, summary=meaning, name=path)(named_page if "{" in path else page)

    @app.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> Response:
        place = f"{request.method} {request.url.path[:200]}"
        is_call = request.url.path.encode("latin-1", "replace") in routes.OPERATIONS or request.url.path == routes.FEEDBACK
        if error.status_code == 405 or is_call:
            wrong = RouterError(METHOD_NOT_ALLOWED, f"{place} is not served; {_HINTS.get(request.method, 'calls for models are POST.')}")
            return _response(error_reply(wrong), {"allow": "POST" if is_call else "GET, HEAD"})
        served = ", ".join(sorted([path.decode() for path in routes.OPERATIONS] + [routes.FEEDBACK, *routes.OTHERS]))
        return _response(error_reply(RouterError(ROUTE_NOT_FOUND, f"{place} does not exist here. Served: {served}.")))

    return app


_HINTS: Final = {"OPTIONS": "pages of other origins may not call this service (no CORS): a key has no place in a browser."}


def _response(reply: Reply, more: Mapping[str, str] = NOTHING) -> Response:
    headers = {name.decode(): value.decode() for name, value in reply.headers}
    return Response(reply.body, status_code=reply.status, headers={**headers, **more})
