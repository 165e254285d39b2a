"""The moment: what rules may know of the time, the budgets and the providers. From memory: no request waits for the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Final

import msgspec

from policies.expressions.vocabulary import WEEKDAYS
from policies.figures import Figure
from policies.types import Moment
from router.call import Call
from router.domain.budgets import BucketState, Budget, Reservation
from router.domain.controls import Limit, limit_known
from router.domain.windows import scope_of
from router.fleet import Fleet
from router.moment_figures import Number, of_budget, of_fleet
from router.scopes import dims_of_caller
from router.snapshot import Snapshot, Watch

MOST_REMEMBERED: Final = 100_000
"""Instances of budgets that are remembered; beyond, the oldest is forgotten until the store is read again."""
_OF_CANDIDATES: Final = frozenset({"model", "provider", "deployment"})
_CLOSED: Final = frozenset({"cooldown", "drained", "frozen"})


def now_ms() -> int:
    """Unix milliseconds by this machine."""
    return time.time_ns() // 1_000_000


class Moments:
    """How full the budgets are, as far as this process knows: by what holds leave, and by what the store says every few seconds."""

    def __init__(self, snapshot: Snapshot, clock_ms: Callable[[], int], limits: Callable[[], Mapping[str, Limit]] = dict) -> None:
        """`clock_ms` gives Unix milliseconds, `limits` those in force; for budgets not among them, the configuration's are."""
        self._clock_ms = clock_ms
        self._limits = limits
        self._budgets: Final[Mapping[str, Budget]] = {one.name: one for one in snapshot.budgets if _OF_CANDIDATES.isdisjoint(one.looks_at)}
        self._used: dict[tuple[str, str], tuple[int, int]] = {}
        """What is spent and held, and the limit, by budget and scope."""
        self._ends: dict[tuple[str, str], int] = {}
        """When the window of each ends, Unix ms."""

    def note(self, held: Reservation) -> None:
        """Learn from what a hold leaves."""
        limits = self._limits()
        for bucket, left in held.left:
            budget = self._budgets.get(bucket.budget)
            if budget is not None and bucket.unit == budget.unit:
                key, limit = (budget.name, bucket.scope), limit_known(limits, budget, bucket.scope)
                if budget.carry_ppm:
                    # What is left has what was carried in it. How much that is, the next reading of the store says.
                    if self._ends.get(key) != bucket.ends_ms:
                        continue
                    limit = self._used[key][1]
                self._set(key, limit - left, limit, bucket.ends_ms)

    def read(self, states: Iterable[BucketState], *, whole: bool = True) -> None:
        """Learn from the counters of the current windows. `whole`: what is not there has not been used; else what was known of it
        stays until its window is over.
        """
        now_ms = self._clock_ms()
        for gone in list(self._used) if whole else [key for key, ends_ms in self._ends.items() if ends_ms <= now_ms]:
            del self._used[gone], self._ends[gone]
        for state in states:
            budget = self._budgets.get(state.budget)
            if budget is not None:
                limit = budget.limit_nusd if state.limit_nusd is None else state.limit_nusd
                self._set((budget.name, state.scope), state.spent_nusd + state.held_nusd, limit, state.ends_ms)

    def _set(self, key: tuple[str, str], used: int, limit: int, ends_ms: int) -> None:
        if len(self._used) >= MOST_REMEMBERED and key not in self._used:
            oldest = next(iter(self._used))
            del self._used[oldest], self._ends[oldest]
        self._used[key], self._ends[key] = (used, limit), ends_ms

    def at(self, call: Call, watch: Watch, fleet: Fleet) -> Moment:
        """What the rules of a route read of this moment."""
        hour, weekday, month = 0, "", 0
        if watch.timezone is not None:
            local = datetime.fromtimestamp(self._clock_ms() / 1000, watch.timezone)
            hour, weekday, month = local.hour, WEEKDAYS[local.weekday()], local.month
        used, left = self._budgets_of(call) if watch.budgets else (None, None)
        up: dict[str, bool] = {}
        error_rate: dict[str, float | None] = {}
        if watch.states:
            states = fleet.look()
            for key, names in watch.states.items():
                up[key] = any(states[name].view.health not in _CLOSED for name in names)
                if key.startswith("provider:"):
                    error_rate[key] = fleet.error_rate(names)
        moment = Moment(hour=hour, weekday=weekday, month=month, budget_used=used, budget_left_nusd=left, up=up, error_rate=error_rate)
        return msgspec.structs.replace(moment, numbers=self._numbers(call, watch, fleet)) if watch.figures else moment

    def _numbers(self, call: Call, watch: Watch, fleet: Fleet) -> dict[str, Number]:
        """What rules read of single budgets, providers, models and deployments."""
        fleet.look()
        numbers: dict[str, Number] = {}
        for figure, names in watch.figures.items():
            if figure.section == "budget":
                numbers[figure.key] = self._of_budget(call, figure)
            else:
                numbers[figure.key] = of_fleet(figure.field, names, fleet, call.snapshot.deployments)
        return numbers

    def _of_budget(self, call: Call, figure: Figure) -> Number:
        """A number of the instance that the request falls under; None: it falls under none."""
        budget = self._budgets[figure.name]
        scope = scope_of(budget, dims=dims_of_caller(call), tags=call.tags)
        if scope is None:
            return None
        limits = self._limits()
        used, limit = self._used.get((budget.name, scope)) or (0, limit_known(limits, budget, scope))
        return of_budget(figure.field, budget, used, limit, self._clock_ms())

    def _budgets_of(self, call: Call) -> tuple[float, int | None]:
        """Largest used share, and the least that is left of those in USD."""
        dims = dims_of_caller(call)
        limits = self._limits()
        largest = 0.0
        least: int | None = None
        for budget in self._budgets.values():
            scope = scope_of(budget, dims=dims, tags=call.tags)
            if scope is None:
                continue
            used, limit = self._used.get((budget.name, scope)) or (0, limit_known(limits, budget, scope))
            share = used / limit if limit > 0 else 1.0
            largest = max(largest, share)
            if budget.unit == "usd" and (least is None or limit - used < least):
                least = max(0, limit - used)
        return largest, least
