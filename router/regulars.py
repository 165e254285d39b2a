"""Plain calls of one principal for one route: what routing reads of them is the same but for a few numbers, and worked out once.

Plain is a chat of texts that says nothing of itself and asks nothing of its routing, where neither the route nor the key has
anything to look at before the policy. What is decided is the same either way.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import Final

from policies.types import NOTHING, RequestFacts
from router.call import Call, Principal, Regular
from router.edge.headers import LABELS
from router.routing import find_route
from router.snapshot import Route, Snapshot

MOST_KNOWN: Final = 50_000


class Regulars:
    """Finds what plain calls have in common, under one configuration."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._known: OrderedDict[tuple[str, str], Regular] = OrderedDict()

    def of(self, call: Call) -> Regular | None:
        """What the call has in common with others; None if it is not plain.

        Raises:
            RouterError: 403 or 404, see `find_route`.
        """
        request, principal = call.request, call.principal
        if not request.common or not LABELS.isdisjoint(call.headers):
            return None
        found = self._known.get((principal.key_id, request.model))
        if found is None or found.principal is not principal:
            found = self._know(principal, request.model, found)
        return found if found.plain else None

    def _know(self, principal: Principal, model: str, before: Regular | None) -> Regular:
        if before is not None and before.principal == principal:
            # A minted key that was read again.
            before.principal = principal
            return before
        route = find_route(self._snapshot, model, principal.models)
        made = self._known[principal.key_id, model] = Regular(
            principal, route, facts=_facts(principal, route), plain=_is_plain(principal, route)
        )
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return made


def _facts(principal: Principal, route: Route) -> partial[RequestFacts]:
    # By position, in the order of the fields; those that follow are numbers, or have defaults.
    return partial(RequestFacts, "chat", route.name, principal.team, principal.key_id, "", "", principal.tags, NOTHING, org=principal.org)


def _is_plain(principal: Principal, route: Route) -> bool:
    looked_at = route.guards or principal.guards or route.headers_read or route.watch is not None
    return not looked_at and route.max_cost_nusd is None and principal.max_cost_nusd is None
