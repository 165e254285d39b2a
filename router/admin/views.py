"""What the read-only pages show, without anything of HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from router.admission import Admission
from router.call import Principal
from router.domain.budgets import BucketState
from router.domain.money import to_usd
from router.domain.windows import bucket_set
from router.edge.headers import Headers
from router.fleet import Fleet
from router.inputs import LATEST_MS
from router.ports import Books
from router.routing import find_route, may_ask
from router.scopes import NO_KEY, NO_TEAM
from router.snapshot import Route, Snapshot


class View:
    """Reads of the running service."""

    def __init__(
        self, *, snapshot: Snapshot, admission: Admission, books: Books, fleet: Fleet, clock_ms: Callable[[], int], started: int
    ) -> None:
        """`clock_ms` gives Unix milliseconds; `started` is the Unix second of the start."""
        self.snapshot = snapshot
        self.started = started
        self.fleet = fleet
        self._admission = admission
        self._books = books
        self._clock_ms = clock_ms

    def switch(self, snapshot: Snapshot, admission: Admission) -> None:
        """Show another configuration from now on."""
        self.snapshot = snapshot
        self._admission = admission

    async def admit(self, headers: Headers) -> Principal:
        """See `Admission.admit`."""
        return await self._admission.admit(headers)

    def routes_for(self, principal: Principal) -> list[Route]:
        """What the key may ask for: routes first, then models, then deployments."""
        routes = [
            route for route in self.snapshot.routes.values() if principal.models is None or may_ask(route, principal.models, self.snapshot)
        ]
        return sorted(routes, key=lambda route: (route.aliases_model, "/" in route.name, route.name))

    def route_for(self, principal: Principal, name: str) -> Route:
        """One of them. Raises `RouterError` 404 or 403."""
        return find_route(self.snapshot, name, principal.models)

    async def states_of(self, principal: Principal) -> Sequence[BucketState]:
        """The buckets that all of the key's requests fall under, in their current windows."""
        dims = {"org": principal.org, "team": principal.team or NO_TEAM, "key": principal.key_id or NO_KEY}
        wanted = bucket_set(self.snapshot.budgets, dims=dims, tags=principal.tags, now_ms=self._clock_ms()).buckets
        known = {(state.budget, state.scope): state for state in await self._books.states_of(wanted)}
        found: list[BucketState] = []
        for bucket in wanted:
            empty = BucketState(
                budget=bucket.budget,
                scope=bucket.scope,
                window=bucket.window,
                limit_nusd=bucket.limit_nusd,
                spent_nusd=0,
                held_nusd=0,
                debt_nusd=0,
                ends_ms=bucket.ends_ms,
            )
            found.append(known.get((bucket.budget, bucket.scope), empty))
        return found

    @staticmethod
    def reset_of(state: BucketState) -> str | None:
        """When the window ends, ISO 8601 in UTC; None if never."""
        return None if state.resets_ms is None else moment(state.resets_ms)


def moment(at_ms: int) -> str:
    """Unix milliseconds as people and programs read them: ISO 8601, UTC, whole seconds. The calendar ends with the year 9999."""
    return datetime.fromtimestamp(min(at_ms, LATEST_MS) // 1000, UTC).isoformat().replace("+00:00", "Z")


def model_card(view: View, route: Route) -> dict[str, Any]:
    """OpenAI's model object, and what is known of the deployments behind the name under `faregate`."""
    deployments = [view.snapshot.deployments[name] for name in route.deployments]
    owners = {deployment.provider.name for deployment in deployments}
    return {
        "id": route.name,
        "object": "model",
        "created": view.started,
        "owned_by": owners.pop() if len(owners) == 1 else "faregate",
        "faregate": {
            "kind": "route" if not route.aliases_model else "deployment" if "/" in route.name else "model",
            "deployments": [
                {
                    "name": deployment.name,
                    "size": deployment.traits.size,
                    "weights": deployment.traits.weights,
                    "locality": deployment.traits.locality,
                    "context_tokens": deployment.traits.context_tokens,
                    "health": view.fleet.view(deployment.name).health,
                    "input_usd_per_mtok": None if deployment.price is None else str(to_usd(deployment.price.rates.input)),
                    "output_usd_per_mtok": None if deployment.price is None else str(to_usd(deployment.price.rates.output)),
                }
                for deployment in deployments
            ],
        },
    }
