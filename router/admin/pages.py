"""Models, the caller's own limits, health and metrics: what is answered beside calls for models, without a framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from router.admin.views import View, model_card, moment
from router.call import Principal
from router.domain.budgets import BucketState
from router.domain.money import format_usd
from router.edge import routes
from router.edge.headers import Headers
from router.edge.replies import JSON, Reply, error_reply
from router.errors import STORE_UNAVAILABLE, RouterError, StoreUnavailable

METRICS_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
_MODEL_PREFIX: Final = routes.MODEL.partition("{")[0]


class Pages:
    """Every page of `routes.OTHERS`, by path."""

    def __init__(
        self,
        view: View,
        *,
        metrics: Callable[[], Awaitable[bytes]],
        ready: Callable[[], Awaitable[str]],
        notes: Callable[[], list[str]] = list,
    ) -> None:
        """`metrics` renders all workers' metrics; `ready` says what is missing, or nothing; `notes` what is worth knowing else."""
        self._view = view
        self._metrics = metrics
        self._ready = ready
        self._notes = notes
        self._pages: dict[str, Callable[[Headers], Awaitable[Reply]]] = {
            routes.LIVE: self._live,
            routes.READY: self._readiness,
            routes.METRICS: self._metrics_page,
            routes.MODELS: self._models,
            routes.ME: self._me,
        }

    async def answer(self, path: str, headers: Headers) -> Reply | None:
        """The answer to `GET path`; None if there is no such page."""
        page = self._pages.get(path)
        try:
            if page is not None:
                return await page(headers)
            if path.startswith(_MODEL_PREFIX):
                return await self._model(path.removeprefix(_MODEL_PREFIX), headers)
        except RouterError as error:
            return error_reply(error)
        except StoreUnavailable as error:
            return error_reply(RouterError(STORE_UNAVAILABLE, f"The budget store does not answer ({error}).", retry_after_seconds=1.0))
        return None

    async def _live(self, headers: Headers) -> Reply:
        return _json({"status": "ok"})

    async def _readiness(self, headers: Headers) -> Reply:
        missing = await self._ready()
        if missing:
            return _json({"status": "not ready", "reason": missing}, status=503)
        notes = self._notes()
        ready = {"status": "ready", "config_version": self._view.snapshot.version}
        return _json({**ready, "notes": notes} if notes else ready)

    async def _metrics_page(self, headers: Headers) -> Reply:
        return Reply(200, [(b"content-type", METRICS_TYPE)], await self._metrics())

    async def _models(self, headers: Headers) -> Reply:
        principal = await self._view.admit(headers)
        return _json({"object": "list", "data": [model_card(self._view, route) for route in self._view.routes_for(principal)]})

    async def _model(self, name: str, headers: Headers) -> Reply:
        principal = await self._view.admit(headers)
        return _json(model_card(self._view, self._view.route_for(principal, name)))

    async def _me(self, headers: Headers) -> Reply:
        principal = await self._view.admit(headers)
        states = await self._view.states_of(principal)
        return _json(_card_of(principal) | {"budgets": [self._budget(state) for state in states]})

    def _budget(self, state: BucketState) -> dict[str, Any]:
        left = None if state.limit_nusd is None else max(0, state.limit_nusd - state.spent_nusd - state.held_nusd)
        return {
            "budget": state.budget,
            "scope": state.scope,
            "window": state.window,
            "limit_usd": None if state.limit_nusd is None else format_usd(state.limit_nusd),
            "spent_usd": format_usd(state.spent_nusd),
            "held_usd": format_usd(state.held_nusd),
            "left_usd": None if left is None else format_usd(left),
            "resets_at": self._view.reset_of(state),
        }


def _card_of(principal: Principal) -> dict[str, Any]:
    return {
        "object": "faregate.me",
        "key_id": principal.key_id,
        "name": principal.name,
        "team": principal.team,
        "models": sorted(principal.models) if principal.models is not None else None,
        "tags": dict(principal.tags),
        "expires_at": None if principal.expires_ms is None else moment(principal.expires_ms),
    }


def _json(value: object, *, status: int = 200) -> Reply:
    return Reply(status, [JSON], msgspec.json.encode(value))
