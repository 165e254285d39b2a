"""Budgets over the time of a log: what a ledger would have held, charged and refused. Pure: time comes with each call."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final

from router.domain.budgets import Bucket, BucketSet, Budget
from router.domain.windows import bucket_at, bucket_id, bucket_set, scope_of

MILLION: Final = 1_000_000
OF_CANDIDATES: Final = frozenset({"model", "provider", "deployment"})


@dataclass(slots=True)
class Counter:
    """What is counted in one bucket, in its unit."""

    limit: int
    refuses: bool
    rolling_ms: int
    unit: str
    spent: int = 0
    held: int = 0
    past: deque[tuple[int, int]] = field(default_factory=deque)
    """Of a rolling window: when what was spent."""

    def used(self, now_ms: int) -> int:
        """Spent in the window, and held."""
        if self.rolling_ms:
            past = self.past
            while past and past[0][0] <= now_ms - self.rolling_ms:
                self.spent -= past.popleft()[1]
        return self.spent + self.held


@dataclass(slots=True)
class Held:
    """What one call holds."""

    counters: list[Counter]
    nusd: int
    tokens: int
    charge_nusd: int
    used_tokens: int


class LedgerModel:
    """Reserves and settles as a ledger does, in memory.

    What it leaves out: waiting for room, smaller caps, scopes beyond a budget's bound, and slices of streams.
    """

    def __init__(self, budgets: Sequence[Budget]) -> None:
        self._budgets = budgets
        self._of_callers = [one for one in budgets if ":" not in one.name and OF_CANDIDATES.isdisjoint(one.looks_at)]
        self._steering = [budget for budget in budgets if budget.steps]
        self._counters: dict[str, Counter] = {}
        self._sets: dict[tuple[object, ...], tuple[BucketSet, list[tuple[str, Counter]]]] = {}
        self._ends: list[tuple[int, int, Held]] = []
        self._number = 0
        named = {name for budget in budgets for name in budget.looks_at}
        self._dimensions = tuple(sorted(name for name in named if not name.startswith("tag:")))
        self._tags = tuple(sorted(name[4:] for name in named if name.startswith("tag:")))

    @property
    def steers(self) -> bool:
        """Whether some budget lets less through before it is used up."""
        return bool(self._steering)

    def until(self, now_ms: int) -> None:
        """Settle the calls that have ended by now."""
        ends = self._ends
        while ends and ends[0][0] <= now_ms:
            at_ms, _, held = heappop(ends)
            for counter in held.counters:
                taken, charged = _amounts(counter.unit, held.nusd, held.tokens), _amounts(counter.unit, held.charge_nusd, held.used_tokens)
                counter.held -= taken
                if counter.unit != "concurrent":
                    counter.spent += charged
                    if counter.rolling_ms:
                        counter.past.append((at_ms, charged))

    def reserve(
        self,
        dims: Mapping[str, str],
        tags: Mapping[str, str],
        now_ms: int,
        ends_ms: int,
        *,
        nusd: int,
        tokens: int,
        charge: tuple[int, int],
    ) -> str | None:
        """Hold for a call that will end and be charged (nano-USD, tokens) then. The budget that refuses, or None: it is held."""
        if not self._budgets:
            return None
        counters = self._find(dims, tags, now_ms)
        for name, counter in counters:
            if counter.refuses and nusd:
                needed = _amounts(counter.unit, nusd, tokens)
                if counter.used(now_ms) + needed > counter.limit:
                    return name
        mine = [counter for _, counter in counters]
        for counter in mine:
            counter.held += _amounts(counter.unit, nusd, tokens)
        self._number += 1
        heappush(self._ends, (max(ends_ms, now_ms), self._number, Held(mine, nusd, tokens, *charge)))
        return None

    def step(self, dims: Mapping[str, str], tags: Mapping[str, str], now_ms: int) -> tuple[str, str] | None:
        """(budget, what it does) if a budget that steers has reached a step: `refuse` or `downgrade`."""
        found: tuple[str, str] | None = None
        for budget in self._steering:
            scope = scope_of(budget, dims=dims, tags=tags)
            if scope is None:
                continue
            counter = self._counter(bucket_at(budget, scope, now_ms))
            used = counter.used(now_ms)
            reached = {action for share, action in budget.steps if used >= counter.limit * share}
            if "refuse" in reached:
                return budget.name, "refuse"
            if reached:
                found = (budget.name, "downgrade")
        return found

    def fullest(self, dims: Mapping[str, str], tags: Mapping[str, str], now_ms: int) -> tuple[float, int | None]:
        """Largest used share of the budgets that a request falls under whatever serves it, and the least left of those in USD."""
        largest, least = 0.0, None
        for budget in self._of_callers:
            scope = scope_of(budget, dims=dims, tags=tags)
            if scope is None:
                continue
            counter = self._counter(bucket_at(budget, scope, now_ms))
            used = counter.used(now_ms)
            largest = max(largest, used / counter.limit if counter.limit > 0 else 1.0)
            if budget.unit == "usd" and (least is None or counter.limit - used < least):
                least = max(0, counter.limit - used)
        return largest, least

    def used_of(self, budget: Budget, dims: Mapping[str, str], tags: Mapping[str, str], now_ms: int) -> tuple[int, int] | None:
        """What is spent and held of the instance of a budget that a request falls under, and its limit; None: it falls under none."""
        scope = scope_of(budget, dims=dims, tags=tags)
        if scope is None:
            return None
        counter = self._counter(bucket_at(budget, scope, now_ms))
        return counter.used(now_ms), counter.limit

    def _find(self, dims: Mapping[str, str], tags: Mapping[str, str], now_ms: int) -> list[tuple[str, Counter]]:
        key = (*[dims[name] for name in self._dimensions], None, *[tags.get(name) for name in self._tags])
        known = self._sets.get(key)
        if known is not None and known[0].latest_start_ms <= now_ms < known[0].valid_until_ms:
            return known[1]
        made = bucket_set(self._budgets, dims=dims, tags=tags, now_ms=now_ms)
        counters = [(bucket.budget, self._counter(bucket)) for bucket in made.buckets]
        self._sets[key] = (made, counters)
        return counters

    def _counter(self, bucket: Bucket) -> Counter:
        name = bucket_id(bucket)
        counter = self._counters.get(name)
        if counter is None:
            refuses = bucket.hard and not bucket.shadow
            counter = self._counters[name] = Counter(bucket.limit_nusd + self._carried(bucket), refuses, bucket.rolling_ms, bucket.unit)
        return counter

    def _carried(self, bucket: Bucket) -> int:
        """What the window before left over, as far as it is carried on."""
        if not bucket.before:
            return 0
        before = self._counters.get(bucket_id(bucket).replace(bucket.window, bucket.before))
        left = bucket.limit_nusd if before is None else max(0, before.limit - before.spent)
        return min(left, bucket.limit_nusd * bucket.carry_ppm // MILLION) if before is not None else 0


def _amounts(unit: str, nusd: int, tokens: int) -> int:
    return nusd if unit == "usd" else tokens if unit == "tokens" else 1
