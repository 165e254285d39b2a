"""Reservation: the money for the candidate about to be called is held in every budget it falls under."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

import msgspec

from router.call import Call
from router.domain.budgets import NEVER_MS, BucketSet, Refusal, Reservation, WindowMoved
from router.domain.estimate import Estimate
from router.domain.money import MAX_NUSD
from router.domain.windows import bucket_set
from router.errors import StoreUnavailable
from router.ports import BudgetStore
from router.snapshot import Deployment, Snapshot

MOST_CACHED_SETS: Final = 50_000
WINDOW_TRIES: Final = 3
NO_TEAM: Final = "default"
"""Team of a key without one: budgets split by team count it too."""
NO_KEY: Final = "anonymous"


@lru_cache(maxsize=4096)
def _note_of(
    operation: str, route: str, model: str, deployment: str, provider: str, team: str, key_id: str, user: str, session: str
) -> bytes:
    """What the books say of an attempt whose process died, but for the request id and the closing brace."""
    fields = {
        "operation": operation,
        "route": route,
        "model": model,
        "deployment": deployment,
        "provider": provider,
        "team": team,
        "key_id": key_id,
        "user": user,
        "session": session,
    }
    return msgspec.json.encode(fields)[:-1]


class Reservations:
    """Builds the buckets of an attempt and reserves in the store."""

    def __init__(self, snapshot: Snapshot, store: BudgetStore, clock_ms: Callable[[], int]) -> None:
        """`clock_ms` gives Unix milliseconds; if the store's clock differs, the store's counts."""
        self._budgets = snapshot.budgets
        self._store = store
        self._clock_ms = clock_ms
        self._sets: OrderedDict[tuple[str, ...], BucketSet] = OrderedDict()
        named = {budget.each for budget in snapshot.budgets if budget.each} | {
            name for budget in snapshot.budgets for name, _ in budget.when if not name.startswith("tag:")
        }
        self._dimensions = tuple(sorted(named))
        self._tags = tuple(sorted({name[4:] for budget in snapshot.budgets for name, _ in budget.when if name.startswith("tag:")}))

    async def hold(self, call: Call, deployment: Deployment, priced: Estimate, attempt_id: str) -> Reservation | Refusal:
        """Reserve the first hold of an attempt.

        Raises:
            StoreUnavailable: nothing is held.
        """
        dims = {
            "team": call.principal.team or NO_TEAM,
            "key": call.principal.key_id or NO_KEY,
            "user": call.user,
            "session": call.session,
            "route": call.route.name,
            "model": deployment.model,
            "provider": deployment.provider.name,
        }
        note = b'%b,"request_id":"%b"}' % (
            _note_of(
                call.operation,
                call.route.name,
                deployment.model,
                deployment.name,
                deployment.provider.name,
                call.principal.team,
                call.principal.key_id,
                call.user,
                call.session,
            ),
            call.request_id.encode("ascii"),
        )
        now_ms = self._clock_ms()
        amount = min(priced.hold_nusd, MAX_NUSD)
        for _ in range(WINDOW_TRIES):
            buckets = self._buckets(dims, call.tags, now_ms)
            answer = await self._store.reserve(attempt_id=attempt_id, amount_nusd=amount, buckets=buckets, note=note)
            if not isinstance(answer, WindowMoved):
                return answer
            now_ms = answer.now_ms
        raise StoreUnavailable("the store's clock jumps: its windows moved at each try")

    def _buckets(self, dims: Mapping[str, str], tags: Mapping[str, str], now_ms: int) -> BucketSet:
        key = tuple([dims[name] for name in self._dimensions] + [tags.get(name, "\0") for name in self._tags])
        known = self._sets.get(key)
        if known is not None and now_ms < known.valid_until_ms and (not known.buckets or now_ms >= known.buckets[0].starts_ms):
            return known
        made = bucket_set(self._budgets, dims=dims, tags=tags, now_ms=now_ms)
        if not made.buckets:
            made.valid_until_ms = NEVER_MS
        self._sets[key] = made
        if len(self._sets) > MOST_CACHED_SETS:
            self._sets.popitem(last=False)
        return made
