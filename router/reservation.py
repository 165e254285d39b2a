"""Reservation: the money for the candidate about to be called is held in every budget it falls under."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from router.call import Attempt
from router.domain.budgets import Bucket, BucketSet, Refusal, Reservation, WindowMoved
from router.domain.estimate import likely_price
from router.domain.pricing import expected
from router.domain.windows import bucket_set
from router.errors import StoreUnavailable
from router.lines import note
from router.metrics_ledger import MeteredStore
from router.scopes import dims_of
from router.snapshot import Snapshot

MOST_CACHED_SETS: Final = 50_000
WINDOW_TRIES: Final = 3


class Reservations:
    """Builds the buckets of an attempt and reserves in the store."""

    def __init__(self, snapshot: Snapshot, store: MeteredStore, clock_ms: Callable[[], int]) -> None:
        """`clock_ms` gives Unix milliseconds; if the store's clock differs, the store's counts."""
        self._budgets = budgets = (*snapshot.budgets, *snapshot.limits)
        self._counts_tokens = any(budget.unit == "tokens" for budget in budgets)
        self._store = store.plain
        self._metered = store
        self._clock_ms = clock_ms
        self._sets: OrderedDict[tuple[str, ...], BucketSet] = OrderedDict()
        named = {name for budget in budgets for name in budget.looks_at}
        self._dimensions = tuple(sorted(name for name in named if not name.startswith("tag:")))
        self._tags = tuple(sorted(name[4:] for name in named if name.startswith("tag:")))
        self._strict = frozenset(budget.name for budget in snapshot.budgets if budget.strict)
        self._always_strict = snapshot.server.strict

    def latest(self) -> Iterator[Bucket]:
        """The buckets that calls fell under, those that came up last first."""
        return itertools.chain.from_iterable(made.buckets for made in reversed(self._sets.values()))

    def hold(self, attempt: Attempt) -> Awaitable[Reservation | Refusal | WindowMoved]:
        """Reserve the first hold of an attempt. For `WindowMoved`, see `hold_in_next_window`. The caller counts the time.

        Raises:
            StoreUnavailable: when awaited; nothing is held.
        """
        way, now_ms = attempt.way, self._clock_ms()
        buckets = way.buckets
        # As `buckets_hold`.
        if buckets is None or not buckets.latest_start_ms <= now_ms < buckets.valid_until_ms:
            buckets = self._buckets(attempt, now_ms)
        return self._store.reserve(
            attempt_id=attempt.attempt_id,
            amount_nusd=attempt.estimate.hold_nusd,
            buckets=buckets,
            note=note(attempt.call, way),
            tokens=_most_tokens(attempt) if self._counts_tokens else 0,
        )

    async def hold_now(self, attempt: Attempt) -> Reservation | Refusal:
        """As `hold`, in whatever window the store's clock is; for a call that has been refused before.

        Raises:
            StoreUnavailable: nothing is held.
        """
        answer = await self.hold(attempt)
        return await self.hold_in_next_window(attempt, answer) if isinstance(answer, WindowMoved) else answer

    async def hold_in_next_window(self, attempt: Attempt, moved: WindowMoved) -> Reservation | Refusal:
        """Reserve in the windows of the store's own clock.

        Raises:
            StoreUnavailable: nothing is held.
        """
        told = note(attempt.call, attempt.way)
        for _ in range(WINDOW_TRIES - 1):
            buckets = self._buckets(attempt, moved.now_ms)
            answer = await self._metered.reserve(
                attempt_id=attempt.attempt_id,
                amount_nusd=attempt.estimate.hold_nusd,
                buckets=buckets,
                note=told,
                tokens=_most_tokens(attempt) if self._counts_tokens else 0,
            )
            if not isinstance(answer, WindowMoved):
                return answer
            moved = answer
        raise StoreUnavailable("the store's clock jumps: its windows moved at each try")

    def _buckets(self, attempt: Attempt, now_ms: int) -> BucketSet:
        made = self._find_buckets(attempt, now_ms)
        habits = attempt.way.habits
        if habits is not None and self._strict and not self._always_strict:
            habits.strict = any(bucket.budget in self._strict for bucket in made.buckets)
        return made

    def _find_buckets(self, attempt: Attempt, now_ms: int) -> BucketSet:
        call, deployment, way = attempt.call, attempt.deployment, attempt.way
        dims = dims_of(call, deployment)
        tags = call.tags
        key = tuple([dims[name] for name in self._dimensions] + [tags.get(name, "\0") for name in self._tags])
        known = self._sets.get(key)
        if known is not None and buckets_hold(known, now_ms):
            way.buckets = known
            return known
        made = bucket_set(self._budgets, dims=dims, tags=tags, now_ms=now_ms)
        self._sets[key] = way.buckets = made
        if len(self._sets) > MOST_CACHED_SETS:
            self._sets.popitem(last=False)
        return made


def _most_tokens(attempt: Attempt) -> int:
    """The most that a call can take in and give out."""
    return attempt.call.request.shape.tokens_bound + attempt.estimate.output_tokens


def buckets_hold(buckets: BucketSet, now_ms: int) -> bool:
    """Whether all windows of the set include this moment."""
    return buckets.latest_start_ms <= now_ms < buckets.valid_until_ms


def burnt_nusd(attempt: Attempt) -> int:
    """What an attempt has certainly burnt so far, nano-USD; not above its hold."""
    price = likely_price(attempt.call.request, attempt.deployment)
    if price is None:
        return 0
    output = attempt.meter.output_tokens_likely if attempt.meter is not None else 0
    burnt = expected(price, input_tokens=attempt.call.request.shape.tokens_likely, output_tokens=output)
    return min(burnt, attempt.held.amount_nusd)
