"""What an administrator may do: each endpoint names the least role."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, TypeVar

from fastapi import Depends, FastAPI, Request

from router.admin.office import Office, admin_of
from router.controls import Desk
from router.errors import ROLE_NOT_ALLOWED, RouterError
from router.snapshot import Administrator

Role = Literal["viewer", "operator", "admin"]
VIEWER: Final[Role] = "viewer"
OPERATOR: Final[Role] = "operator"
ADMIN: Final[Role] = "admin"
_RANK: Final[dict[Role, int]] = {"viewer": 0, "operator": 1, "admin": 2}

F = TypeVar("F", bound=Callable[..., Any])


class Endpoint:
    """Adds endpoints to the application. There is no way to add one without a role."""

    def __init__(self, app: FastAPI, prefix: str, office: Office) -> None:
        self._app = app
        self._prefix = prefix
        self.office = office

    def get(self, path: str, role: Role, **more: Any) -> Callable[[F], F]:
        """Something to read."""
        return self._add("GET", path, role, more)

    def post(self, path: str, role: Role, **more: Any) -> Callable[[F], F]:
        """Something to change."""
        return self._add("POST", path, role, more)

    def delete(self, path: str, role: Role, **more: Any) -> Callable[[F], F]:
        """Something to end."""
        return self._add("DELETE", path, role, more)

    def _add(self, method: str, path: str, role: Role, more: dict[str, Any]) -> Callable[[F], F]:
        def add(function: F) -> F:
            extra = {"x-role": role}
            self._app.add_api_route(
                self._prefix + path, function, methods=[method], dependencies=[Depends(needs(role))], openapi_extra=extra, **more
            )
            return function

        return add

    @staticmethod
    def admin(request: Request) -> Administrator:
        """Who asks."""
        return admin_of(request.scope)

    def desk(self, request: Request) -> Desk:
        """Where whoever asks makes changes."""
        return self.office.desk(self.admin(request).name)


def needs(role: Role) -> Callable[[Request], Awaitable[None]]:
    """Refuses administrators of a lesser role."""

    # Not a plain function: FastAPI would run it in a thread.
    async def check(request: Request) -> None:
        admin = admin_of(request.scope)
        if _RANK[admin.role] < _RANK[role]:
            message = f"This needs the role {role}; administrator '{admin.name}' is {admin.role}."
            raise RouterError(ROLE_NOT_ALLOWED, message)

    return check
