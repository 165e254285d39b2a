"""The admin API as a FastAPI application: who may do what, and how errors look."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from router import __version__
from router.admin import access, budgets, configs, reports
from router.admin.mistakes import described, place
from router.admin.office import Office
from router.admin.roles import VIEWER, Endpoint
from router.admin.shapes import Problem, Whoami
from router.controls import ControlError
from router.edge.replies import SERVING_FAILED, error_reply
from router.errors import (
    INVALID_JSON,
    INVALID_REQUEST,
    METHOD_NOT_ALLOWED,
    ROUTE_NOT_FOUND,
    STORE_UNAVAILABLE,
    ConfigError,
    RouterError,
    StoreUnavailable,
)

PREFIX = "/admin/v1"
RESPONSES: dict[int | str, dict[str, Any]] = {"4XX": {"model": Problem}, "5XX": {"model": Problem}}
DESCRIPTION = (
    "Send `Authorization: Bearer <secret of an administrator>`. `viewer` reads, `operator` also changes limits, freezes, drains and"
    " reloads, `admin` also makes and revokes keys. Amounts are decimal texts in their unit, moments ISO 8601 in UTC."
)


def make_admin_app(office: Office) -> FastAPI:
    """The application."""
    app = FastAPI(
        title="Faregate admin",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/admin/openapi.json",
        redirect_slashes=False,
        responses=RESPONSES,
    )
    endpoint = Endpoint(app, PREFIX, office)
    whoami(endpoint)
    for part in (budgets, access, reports, configs):
        part.add(endpoint)
    for kind, handler in HANDLERS:
        app.add_exception_handler(kind, handler)
    _say_how_to_authenticate(app)
    return app


def whoami(endpoint: Endpoint) -> None:
    """The administrator's own name and role."""

    @endpoint.get("/me", VIEWER)
    async def me(request: Request) -> Whoami:
        """Who asks, and in which role."""
        admin = endpoint.admin(request)
        return Whoami(name=admin.name, role=admin.role)


def _say_how_to_authenticate(app: FastAPI) -> None:
    made = app.openapi

    def openapi() -> dict[str, Any]:
        schema = made()
        schema.setdefault("components", {})["securitySchemes"] = {"administrator": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"administrator": []}]
        return schema

    # FastAPI's own way to change what it says of itself.
    app.openapi = openapi  # type: ignore[method-assign]


def _response(error: RouterError) -> Response:
    reply = error_reply(error)
    return Response(reply.body, status_code=reply.status, headers={name.decode(): value.decode() for name, value in reply.headers})


async def _refused(request: Request, error: Exception) -> Response:
    return _response(error if isinstance(error, RouterError) else RouterError(INVALID_REQUEST, str(error)))


async def _store_away(request: Request, error: Exception) -> Response:
    return _response(RouterError(STORE_UNAVAILABLE, f"The budget store does not answer ({error}).", retry_after_seconds=1.0))


async def _invalid(request: Request, error: Exception) -> Response:
    findings: Sequence[Any] = error.errors() if isinstance(error, RequestValidationError) else ()
    first = findings[0] if findings else {"loc": (), "msg": "The request cannot be read.", "type": ""}
    if first["type"] == "json_invalid":
        return _response(RouterError(INVALID_JSON, "The body is not JSON."))
    where, said = place(first), described(first, lambda: _fields(request))
    return _response(RouterError(INVALID_REQUEST, f"{where or 'The body'}: {said}", param=where or None))


def _fields(request: Request) -> list[str]:
    """The names that the body of a request may have."""
    body = getattr(request.scope.get("route"), "body_field", None)
    return list(getattr(body.field_info.annotation, "model_fields", ())) if body is not None else []


async def _not_served(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    place = f"{request.method} {request.url.path[:200]}"
    if status == 405:
        return _response(RouterError(METHOD_NOT_ALLOWED, f"{place} is not served here with this method."))
    if status == 404:
        return _response(RouterError(ROUTE_NOT_FOUND, f"{place} does not exist. /admin/openapi.json tells what does."))
    return _response(RouterError(INVALID_REQUEST, "The request cannot be read."))


async def _failed(request: Request, error: Exception) -> Response:
    return _response(SERVING_FAILED)


HANDLERS: tuple[tuple[type[Exception], Callable[[Request, Exception], Awaitable[Response]]], ...] = (
    (RouterError, _refused),
    (ControlError, _refused),
    (ConfigError, _refused),
    (StoreUnavailable, _store_away),
    (RequestValidationError, _invalid),
    (HTTPException, _not_served),
    (Exception, _failed),
)
