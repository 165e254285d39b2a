"""Steering before blocking: a budget that fills lets only small models through, and then none, before it is used up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from policies.types import Rejection
from router.call import Call
from router.domain.budgets import Bucket, BucketState, Budget, Reservation, StepAction
from router.domain.controls import Limit, limit_known
from router.domain.windows import bucket_at, scope_of
from router.fleet import FleetView
from router.metrics import Metrics
from router.scopes import dims_of
from router.snapshot import Deployment, Snapshot

log = logging.getLogger("faregate.steering")

SMALL: Final = "small"
MOST_STEERED: Final = 100_000
"""Instances of budgets that are remembered; beyond, the oldest is forgotten until the store is read again."""


class Steering:
    """How full the budgets are that steer, as far as this process knows: by what holds leave, and by what the store says.

    Costs a request nothing while no budget has reached a step.
    """

    def __init__(self, snapshot: Snapshot, metrics: Metrics, limits: Callable[[], Mapping[str, Limit]] = dict) -> None:
        """`limits` gives those in force; for budgets not among them, the configuration's are."""
        self.budgets: Final[Mapping[str, Budget]] = {budget.name: budget for budget in snapshot.budgets if budget.steps}
        self.levels: dict[tuple[str, str], StepAction] = {}
        """What is done, by budget and scope; nothing for those below their first step."""
        self._ends: dict[tuple[str, str], int] = {}
        """When the window of each ends, Unix ms."""
        self._with_carried: dict[tuple[str, str], tuple[int, int]] = {}
        """Of budgets that carry over, as read last: end of the window, and its limit with what came from the one before."""
        self._limits = limits
        self._metrics = metrics

    def note(self, held: Reservation) -> None:
        """Learn from what a hold leaves."""
        limits = self._limits()
        for bucket, left in held.left:
            budget = self.budgets.get(bucket.budget)
            if budget is None:
                continue
            limit = limit_known(limits, budget, bucket.scope)
            if budget.carry_ppm:
                # What is left has what was carried in it. How much that is, the next reading of the store says.
                ends_ms, limit = self._with_carried.get((budget.name, bucket.scope), (0, 0))
                if ends_ms != bucket.ends_ms:
                    continue
            self._set(budget, bucket.scope, limit - left, limit, bucket.ends_ms)

    def read(self, states: Iterable[BucketState], *, whole: bool = True, now_ms: int = 0) -> None:
        """Learn from the counters of the current windows. `whole`: what is not there has not been used; else what was known of it
        stays until its window is over at `now_ms`.
        """
        seen = set()
        self._with_carried = {}
        for state in states:
            budget = self.budgets.get(state.budget)
            if budget is None:
                continue
            limit = budget.limit_nusd if state.limit_nusd is None else state.limit_nusd
            seen.add((budget.name, state.scope))
            if budget.carry_ppm:
                self._with_carried[budget.name, state.scope] = state.ends_ms, limit
            self._set(budget, state.scope, state.spent_nusd + state.held_nusd, limit, state.ends_ms)
        for gone in self.levels.keys() - seen:
            if whole or self._ends.get(gone, 0) <= now_ms:
                del self.levels[gone]
                self._ends.pop(gone, None)

    def steered(self, now_ms: int) -> list[Bucket]:
        """The buckets that are at a step: who is refused holds nothing that could tell of room again."""
        return [bucket_at(self.budgets[name], scope, now_ms) for name, scope in self.levels]

    def _set(self, budget: Budget, scope: str, used: int, limit: int, ends_ms: int) -> None:
        level = level_of(budget, used, limit)
        key = (budget.name, scope)
        known = self.levels.get(key)
        if level == known:
            if level is not None:
                self._ends[key] = ends_ms
            return
        if level is None:
            del self.levels[key]
            self._ends.pop(key, None)
            log.info("budget '%s' (%s) is below its first step again", *key)
            return
        if known is None and len(self.levels) >= MOST_STEERED:
            oldest = next(iter(self.levels))
            del self.levels[oldest]
            self._ends.pop(oldest, None)
        self.levels[key], self._ends[key] = level, ends_ms
        self._metrics.stepped(budget=budget.name, action=level)
        log.warning("budget '%s' (%s) is at a step: %s", *key, level)

    def out(self, call: Call, views: Sequence[FleetView], deployments: Mapping[str, Deployment]) -> list[Rejection]:
        """Candidates that a budget leaves out now."""
        found = []
        for view in views:
            rejection = self._rejection(call, deployments[view.traits.deployment])
            if rejection is not None:
                found.append(rejection)
        return found

    def _rejection(self, call: Call, deployment: Deployment) -> Rejection | None:
        dims = dims_of(call, deployment)
        for budget in self.budgets.values():
            scope = scope_of(budget, dims=dims, tags=call.tags)
            level = None if scope is None else self.levels.get((budget.name, scope))
            if level == "refuse":
                return Rejection(deployment.name, "budget_exhausted", f"budget '{budget.name}' is nearly used up and refuses")
            if level == "downgrade" and deployment.traits.size != SMALL:
                return Rejection(deployment.name, "budget_downgrade", f"budget '{budget.name}' is filling up: only small models")
        return None


def level_of(budget: Budget, used: int, limit: int) -> StepAction | None:
    """The strictest step that is reached."""
    reached = [action for share, action in budget.steps if used >= limit * share]
    if not reached:
        return None
    return "refuse" if "refuse" in reached else "downgrade"
