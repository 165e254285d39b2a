"""What the store says of budgets, read every few seconds: all of them while they are few, and what matters of them when they are many.

A split budget has a bucket for each of its instances, and clients make up users and sessions. To read a hundred thousand of them
takes seconds of a core here and in the store.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from router.domain.budgets import Bucket, BucketState, Budget
from router.domain.windows import bucket_at
from router.ports import Books
from router.snapshot import Snapshot

BUDGETS_SECONDS: Final = 5.0
"""How often budgets are read."""
MANY: Final = 5_000
"""Beyond so many buckets they are not all read so often."""
COUNT_SECONDS: Final = 60.0
"""How often to look whether they are fewer again."""
MOST_OWN: Final = 2_000
"""Buckets of split budgets that a process used last, and reads as often as the others."""
PAUSE_SECONDS: Final = 0.5
"""Between two pages when all are gone through: a page of 500 costs a process 12 ms and Redis 8 ms (2026-11)."""
MOST_AUDITED: Final = 100_000
"""Beyond so many buckets a service does not compare all counters with the log each minute; `faregate ledger verify` does."""
MOST_KEPT: Final = 10_000
"""Instances that have reached a share people are told of, and are looked at one by one."""

log = structlog.get_logger("faregate.budgets")


@dataclass(slots=True)
class Sums:
    """The instances of a split budget in their current windows, together."""

    spent_nusd: int = 0
    held_nusd: int = 0
    used: int = 0
    """Instances with charges or holds."""
    exhausted: int = 0
    fullest: float = 0.0
    """What is used of its limit by the fullest one."""
    resets_ms: int | None = None
    """When the last of them starts anew; None if none does."""

    def add(self, state: BucketState, limit: int) -> float:
        """Count an instance; returns what is used of its limit."""
        used = state.spent_nusd + state.held_nusd
        ratio = used / limit if limit else 1.0
        self.spent_nusd += state.spent_nusd
        self.held_nusd += state.held_nusd
        self.used += bool(used)
        self.exhausted += ratio >= 1
        self.fullest = max(self.fullest, ratio)
        if state.resets_ms is not None:
            self.resets_ms = max(self.resets_ms or 0, state.resets_ms)
        return ratio


class BudgetWatch:
    """One process's reading of the budgets."""

    def __init__(
        self,
        books: Books,
        *,
        snapshot: Callable[[], Snapshot],
        own: Callable[[], Iterable[Bucket]],
        goes_through: Callable[[], bool],
        clock: Callable[[], float],
        clock_ms: Callable[[], int],
    ) -> None:
        """Args:
        books: where they are.
        snapshot: the configuration that is served now.
        own: buckets that this process used, the latest ones first.
        goes_through: whether it is for this process to go through all when they are many.
        clock: monotonic seconds.
        clock_ms: Unix milliseconds.
        """
        self._books = books
        self._snapshot = snapshot
        self._own = own
        self._goes_through = goes_through
        self._clock = clock
        self._clock_ms = clock_ms
        self._count_at = 0.0
        self.count = 0
        """Buckets in the store, about."""
        self._kept: dict[tuple[str, str, str], BucketState] = {}
        """Of split budgets, when they are many: instances that were found to be nearly full, now or a round before."""
        self._full: set[tuple[str, str, str]] = set()
        """Those that were now."""
        self.states: tuple[BucketState, ...] = ()
        """The latest reading."""
        self.whole = True
        """Whether that is all of them. Else it is the budgets that are not split, instances that this process used last, and those
        that reached a share people are told of when all were gone through."""
        self.sums: Mapping[str, Sums] = {}
        """Of split budgets, if it is not."""

    @property
    def many(self) -> Mapping[str, Sums] | None:
        """Of split budgets, as far as all were gone through; None: `states` are all there are."""
        return None if self.whole else self.sums

    async def read(self) -> None:
        """Read what is to be read every few seconds.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        budgets = self._snapshot().budgets
        if not budgets:
            self.states, self.whole = (), True
            return
        now = self._clock()
        if now >= self._count_at:
            before, self.count = self.count, await self._books.bucket_count()
            if before <= MOST_AUDITED < self.count:
                log.warning(
                    "too many buckets to compare them with the log each minute: run `faregate ledger verify` now and then",
                    most=MOST_AUDITED,
                )
            self.whole = self.count <= MANY
            self._count_at = now if self.whole else now + COUNT_SECONDS
        if self.whole:
            self.states, self.sums, self._kept = tuple(await self._books.bucket_states()), {}, {}
            return
        fresh, now_ms = await self._books.states_of(self._wanted(budgets)), self._clock_ms()
        kept = {key: state for key, state in self._kept.items() if state.ends_ms > now_ms}
        # What was read one by one is newer.
        self.states = tuple({**kept, **{_key(state): state for state in fresh}}.values())

    def _wanted(self, budgets: Sequence[Budget]) -> list[Bucket]:
        now_ms = self._clock_ms()
        wanted = [bucket_at(budget, "", now_ms) for budget in budgets if not budget.dimensions]
        names = {budget.name for budget in budgets if budget.dimensions}
        if not names:
            return wanted
        own = (bucket for bucket in self._own() if bucket.budget in names and bucket.ends_ms > now_ms)
        return wanted + list({(b.budget, b.scope, b.window): b for b in itertools.islice(own, MOST_OWN)}.values())

    async def go_through(self) -> None:
        """Go through all buckets once, slowly, if they are many and it is for this process to do so.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        if self.whole or not self._goes_through():
            return
        budgets = {budget.name: budget for budget in self._snapshot().budgets if budget.dimensions}
        sums = {name: Sums() for name in budgets}
        kept: dict[tuple[str, str, str], BucketState] = {}
        full: set[tuple[str, str, str]] = set()
        async for page in self._books.bucket_pages():
            for state in page:
                budget = budgets.get(state.budget)
                if budget is None:
                    continue
                ratio = sums[budget.name].add(state, budget.limit_nusd if state.limit_nusd is None else state.limit_nusd)
                # What was nearly full a round ago is looked at once more: it may be news that it is not any more.
                key, is_full = _key(state), ratio >= min(budget.alert_at, default=1.0)
                if (is_full or key in self._full) and len(kept) < MOST_KEPT:
                    kept[key] = state
                    full |= {key} if is_full else set()
            await asyncio.sleep(PAUSE_SECONDS)
        if len(kept) == MOST_KEPT:
            log.warning("more instances of budgets are nearly full than are looked at one by one", most=MOST_KEPT)
        self.sums, self._kept, self._full = sums, kept, full


def _key(state: BucketState) -> tuple[str, str, str]:
    return state.budget, state.scope, state.window
