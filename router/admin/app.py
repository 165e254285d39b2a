"""Models, the caller's own limits, health and metrics: the requests that are not calls for models."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from router import __version__
from router.admin.views import View, model_card
from router.domain.money import format_usd
from router.edge import routes
from router.edge.replies import error_reply
from router.errors import METHOD_NOT_ALLOWED, ROUTE_NOT_FOUND, STORE_UNAVAILABLE, RouterError, StoreUnavailable

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def make_app(view: View, *, metrics: Callable[[], Awaitable[bytes]], ready: Callable[[], Awaitable[str]]) -> FastAPI:
    """The FastAPI application. `metrics` renders all workers' metrics; `ready` says what is missing, or nothing."""
    app = FastAPI(title="Faregate", version=__version__, docs_url=None, redoc_url=None, openapi_url="/openapi.json")

    @app.get(routes.LIVE)
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(routes.READY)
    async def readiness() -> JSONResponse:
        missing = await ready()
        if missing:
            return JSONResponse({"status": "not ready", "reason": missing}, status_code=503)
        return JSONResponse({"status": "ready", "config_version": view.snapshot.version})

    @app.get(routes.METRICS)
    async def metrics_page() -> Response:
        return Response(await metrics(), media_type=METRICS_TYPE)

    @app.get(routes.MODELS)
    async def models(request: Request) -> dict[str, Any]:
        principal = await view.admit(dict(request.headers.raw))
        return {"object": "list", "data": [model_card(view, route) for route in view.routes_for(principal)]}

    @app.get(routes.MODEL)
    async def model(name: str, request: Request) -> dict[str, Any]:
        principal = await view.admit(dict(request.headers.raw))
        return model_card(view, view.route_for(principal, name))

    @app.get(routes.ME)
    async def me(request: Request) -> dict[str, Any]:
        principal = await view.admit(dict(request.headers.raw))
        states = await view.states_of(principal)
        return {
            "object": "faregate.me",
            "key_id": principal.key_id,
            "name": principal.name,
            "team": principal.team,
            "models": sorted(principal.models) if principal.models is not None else None,
            "tags": dict(principal.tags),
            "expires_at": None if principal.expires_ms is None else principal.expires_ms // 1000,
            "budgets": [
                {
                    "budget": state.budget,
                    "scope": state.scope,
                    "window": state.window,
                    "limit_usd": None if state.limit_nusd is None else format_usd(state.limit_nusd),
                    "spent_usd": format_usd(state.spent_nusd),
                    "held_usd": format_usd(state.held_nusd),
                    "left_usd": None
                    if state.limit_nusd is None
                    else format_usd(max(0, state.limit_nusd - state.spent_nusd - state.held_nusd)),
                    "resets_at": view.reset_of(state),
                }
                for state in states
            ],
        }

    _handle_errors(app)
    return app


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(RouterError)
    async def refused(request: Request, error: RouterError) -> Response:
        return _response(error)

    @app.exception_handler(StoreUnavailable)
    async def no_store(request: Request, error: StoreUnavailable) -> Response:
        return _response(RouterError(STORE_UNAVAILABLE, f"The budget store does not answer ({error}).", retry_after_seconds=1.0))

    @app.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> Response:
        place = f"{request.method} {request.url.path[:200]}"
        if error.status_code == 405 or request.url.path.encode("latin-1", "replace") in routes.OPERATIONS:
            return _response(RouterError(METHOD_NOT_ALLOWED, f"{place} is not served; calls for models are POST."))
        served = ", ".join(sorted([path.decode() for path in routes.OPERATIONS] + list(routes.OTHERS)))
        return _response(RouterError(ROUTE_NOT_FOUND, f"{place} does not exist here. Served: {served}."))


def _response(error: RouterError) -> Response:
    reply = error_reply(error)
    return Response(reply.body, status_code=reply.status, headers={name.decode(): value.decode() for name, value in reply.headers})
