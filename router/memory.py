"""What this process has learned that policy kinds go by: experiments, bandits, cascades, caches of sessions, the pace of budgets.

In memory and per process: every worker learns for itself, and begins anew with a restart. What was taken back is the exception: see
`router.experiments`.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from policies.engine import Branch
from policies.plans import Arm, Live, Plan, Stop
from policies.types import RequestFacts
from router.domain.budgets import NEVER_MS, BucketState, Budget
from router.domain.windows import bucket_set
from router.experiments import Experiment, Experiments, Key
from router.metrics import Metrics
from router.scopes import dims_of

if TYPE_CHECKING:
    from router.call import Attempt, Call
    from router.fleet import FleetView

MOST_SESSIONS: Final = 50_000
CACHE_SECONDS: Final = 300.0
"""How long providers keep a prompt, at the least: five minutes at OpenAI and Anthropic (their pages on prompt caching, 2026-11)."""
LEAST_CACHED_TOKENS: Final = 1024
"""Shorter prompts are not kept (same source)."""
LEAST_CASCADES: Final = 20
"""Requests before a cascade may be switched off."""
CASCADE_WEIGHT: Final = 0.02
"""Of the newest request in the moving averages of a cascade: about the last hundred count."""
LEAST_VENDOR_CALLS: Final = 20
"""Calls before shares of providers say anything."""
FEWEST_TIMES: Final = 8
MOST_RATED: Final = 10_000
BURST_OF_HEDGES: Final = 3.0
BLAMELESS: Final = frozenset({"client", "context_length_exceeded", "too_large"})
"""Failures that say nothing of the model: the request was wrong."""


class Belief:
    """What is known of one candidate of a bandit."""

    __slots__ = ("mean", "seen")

    def __init__(self) -> None:
        self.seen = 0.0
        self.mean = 0.5

    def add(self, reward: float, memory: float) -> None:
        self.seen = min(self.seen + 1.0, memory)
        # The prior counts as one answer.
        self.mean += (reward - self.mean) / (self.seen + 1.0)


class CascadeState:
    """What a cascade costs beside what the last step alone would."""

    __slots__ = ("alone", "asked", "escalated", "requests", "spent")

    def __init__(self) -> None:
        self.requests = 0
        self.asked = 0
        """Requests whose first answers did not do."""
        self.spent = 0.0
        """Moving average of what a request cost, nano-USD."""
        self.alone = 0.0
        """Moving average of what the last step alone costs, nano-USD."""
        self.escalated = 0.0
        """Moving share of requests that went to the last step."""

    def add(self, *, spent_nusd: int, alone_nusd: int, escalated: bool) -> None:
        """One more request."""
        self.requests += 1
        self.asked += escalated
        weight = max(CASCADE_WEIGHT, 1.0 / self.requests)
        self.spent += (spent_nusd - self.spent) * weight
        self.alone += (alone_nusd - self.alone) * weight
        self.escalated += (float(escalated) - self.escalated) * weight

    @property
    def pays(self) -> float | None:
        """What is saved, as a share of the price of the last step alone; below 0: it costs more. None: too little is known."""
        if self.requests < LEAST_CASCADES or self.alone <= 0:
            return None
        return 1.0 - self.spent / self.alone


class VendorSpend:
    """What providers have had of late; money counts less and less as time passes."""

    __slots__ = ("at", "calls", "half_seconds", "nusd")

    def __init__(self, half_seconds: float) -> None:
        self.half_seconds = half_seconds
        self.nusd: dict[str, float] = {}
        self.calls = 0
        self.at = 0.0

    def add(self, provider: str, nusd: int, now: float) -> None:
        """One more call."""
        fade = 0.5 ** (max(0.0, now - self.at) / self.half_seconds)
        self.nusd = {name: value * fade for name, value in self.nusd.items()}
        self.nusd[provider] = self.nusd.get(provider, 0.0) + nusd
        self.at = max(self.at, now)
        self.calls += 1

    def shares(self) -> Mapping[str, float]:
        """Of each provider that has had any, 0 to 1; empty while too little is known."""
        total = sum(self.nusd.values())
        if self.calls < LEAST_VENDOR_CALLS or total <= 0:
            return {}
        return {name: value / total for name, value in self.nusd.items()}


class _Cached(msgspec.Struct, gc=False):
    deployment: str
    tokens: int
    at: float


class _Given(msgspec.Struct, gc=False):
    """A reward that a rating may still change."""

    key_id: str
    belief: Belief
    reward: float
    cost: float


class Memory:
    """What kinds read, and what they learn from."""

    def __init__(self, clock: Callable[[], float] = time.time, quantile: Callable[[str, float, int], float | None] | None = None) -> None:
        """`clock` gives Unix seconds; `quantile` the time to the first token of a deployment: (name, share, least number)."""
        self._clock = clock
        self._quantile = quantile
        self.experiments = Experiments(clock)
        self.beliefs: dict[Key, dict[str, Belief]] = {}
        self.cascades: dict[Key, CascadeState] = {}
        self.vendors: dict[Key, VendorSpend] = {}
        self._hedges: dict[Key, float] = {}
        """Second calls that are allowed."""
        self._sessions: OrderedDict[tuple[str, str, str], _Cached] = OrderedDict()
        self._given: OrderedDict[str, list[_Given]] = OrderedDict()
        self._spent: dict[tuple[str, str, str], tuple[int, int]] = {}
        """Used and limit, by budget, scope and window."""
        self._budgets: Mapping[str, Budget] = {}
        self.copies: set[asyncio.Task[None]] = set()
        """Copies of requests that are under way."""

    async def close(self) -> None:
        """Give up the copies that are under way; what they cost so far is booked."""
        copies = list(self.copies)
        for task in copies:
            task.cancel()
        await asyncio.gather(*copies, return_exceptions=True)

    def savings(self) -> Iterator[tuple[str, float]]:
        """What each cascade saves that has been used often enough: its name, and the share of the price of its last step alone."""
        for (_, _, name, _), state in self.cascades.items():
            pays = state.pays
            if pays is not None:
                yield name, pays

    def vendor_shares(self) -> Iterator[tuple[str, str, float]]:
        """What providers have had: name of the cap, provider, and share of the money."""
        for (_, _, name, _), spend in self.vendors.items():
            for provider, share in spend.shares().items():
                yield name, provider, share

    # -- reading

    def facts(self, call: Call, branch: Branch, views: Sequence[FleetView]) -> RequestFacts:
        """The facts with the numbers that the branch's kinds read."""
        numbers: dict[str, float] = {}
        for live in branch.live:
            _READERS[live.what](self, numbers, call, live, views)
        return msgspec.structs.replace(call.facts, live=numbers)

    def _key(self, call: Call, name: str) -> Key:
        told = next((live for live in call.branch.live if live.name == name and live.what in ("experiment", "bandit", "cascade")), None)
        return call.route.name, call.branch.rule, name, "" if told is None else told.version

    def _experiment(self, call: Call, name: str, since: float | None = None) -> Experiment:
        return self.experiments.of(self._key(call, name), since)

    def _read_experiment(self, numbers: dict[str, float], call: Call, live: Live, views: Sequence[FleetView]) -> None:
        found = self._experiment(call, live.name, live.since)
        numbers[f"age/{live.name}"] = max(0.0, self._clock() - found.since)
        if found.stopped:
            numbers[f"stopped/{live.name}"] = 1.0

    def _read_bandit(self, numbers: dict[str, float], call: Call, live: Live, views: Sequence[FleetView]) -> None:
        beliefs = self.beliefs.get(self._key(call, live.name), {})
        for view in views:
            belief = beliefs.get(view.traits.deployment)
            if belief is not None:
                numbers[f"n/{live.name}/{view.traits.deployment}"] = min(belief.seen, live.number)
                numbers[f"mean/{live.name}/{view.traits.deployment}"] = belief.mean

    def _read_cascade(self, numbers: dict[str, float], call: Call, live: Live, views: Sequence[FleetView]) -> None:
        state = self.cascades.get(self._key(call, live.name))
        pays = None if state is None else state.pays
        if state is not None and pays is not None:
            numbers[f"pays/{live.name}"] = pays
            numbers[f"escalated/{live.name}"] = state.escalated

    def _read_hedge(self, numbers: dict[str, float], call: Call, live: Live, views: Sequence[FleetView]) -> None:
        key = self._key(call, live.name)
        saved = self._hedges[key] = min(self._hedges.get(key, 1.0) + live.number, BURST_OF_HEDGES)
        numbers[f"allowed/{live.name}"] = float(saved >= 1.0)
        if saved < 1.0 or self._quantile is None or live.quantile is None:
            return
        for view in views:
            after = self._quantile(view.traits.deployment, live.quantile, FEWEST_TIMES)
            if after is not None:
                numbers[f"after/{live.name}/{view.traits.deployment}"] = after

    def _read_cache(self, numbers: dict[str, float], call: Call, live: Live, views: Sequence[FleetView]) -> None:
        cached = self._sessions.get(_session(call)) if call.session else None
        if cached is None or self._clock() - cached.at > CACHE_SECONDS:
            return
        deployment = call.snapshot.deployments.get(cached.deployment)
        price = None if deployment is None else deployment.price
        if price is None or price.rates.cache_read is None:
            return
        tokens = min(cached.tokens, call.request.shape.tokens_likely)
        if tokens >= LEAST_CACHED_TOKENS:
            numbers[f"saves/{cached.deployment}"] = float(tokens * (price.rates.input - price.rates.cache_read) // 1_000_000)

    def _read_vendors(self, numbers: dict[str, float], call: Call, live: Live, views: Sequence[FleetView]) -> None:
        spend = self.vendors.setdefault(self._key(call, live.name), VendorSpend(live.number))
        spend.half_seconds = live.number
        for provider, share in spend.shares().items():
            numbers[f"share/{live.name}/{provider}"] = share

    def _read_pace(self, numbers: dict[str, float], call: Call, live: Live, views: Sequence[FleetView]) -> None:
        budget = self._budgets.get(live.name)
        if budget is None or not views:
            return
        dims = dims_of(call, call.snapshot.deployments[views[0].traits.deployment])
        now_ms = int(self._clock() * 1000)
        for bucket in bucket_set((budget,), dims=dims, tags=call.tags, now_ms=now_ms).buckets:
            used, limit = self._spent.get((bucket.budget, bucket.scope, bucket.window), (0, bucket.limit_nusd))
            if bucket.ends_ms < NEVER_MS and limit > 0:
                numbers[f"spent/{live.name}"] = used / limit
                numbers[f"passed/{live.name}"] = (now_ms - bucket.starts_ms) / (bucket.ends_ms - bucket.starts_ms)

    def read_budgets(self, states: Iterable[BucketState], budgets: Iterable[Budget]) -> None:
        """Learn from the counters of the current windows what budgets have spent."""
        self._budgets = {budget.name: budget for budget in budgets}
        self._spent = {
            (state.budget, state.scope, state.window): (
                state.spent_nusd + state.held_nusd,
                self._budgets[state.budget].limit_nusd if state.limit_nusd is None else state.limit_nusd,
            )
            for state in states
            if state.budget in self._budgets
        }

    # -- learning

    def hedged(self, call: Call, name: str) -> None:
        """A second call was made."""
        self._hedges[self._key(call, name)] -= 1.0

    def cascaded(self, call: Call, name: str, *, alone_nusd: int, escalated: bool) -> float | None:
        """A cascade has come to its end; what it saves by now."""
        state = self.cascades.setdefault(self._key(call, name), CascadeState())
        state.add(spent_nusd=call.charge_nusd, alone_nusd=alone_nusd, escalated=escalated)
        return state.pays

    def learn(self, call: Call, plan: Plan, results: Sequence[tuple[Attempt, str]], metrics: Metrics) -> None:
        """Learn from a call that is over. `results`: its attempts, and why each failed."""
        if plan.keeps_cache and call.session and call.winner is not None and call.usage is not None:
            self._sessions[_session(call)] = _Cached(call.winner.deployment.name, call.usage.input_tokens, self._clock())
            self._sessions.move_to_end(_session(call))
            if len(self._sessions) > MOST_SESSIONS:
                self._sessions.popitem(last=False)
        for name in plan.spends:
            for attempt, _ in results:
                self.vendors[self._key(call, name)].add(attempt.deployment.provider.name, attempt.charge_nusd, self._clock())
        if not plan.arms or not results or all(cause in BLAMELESS for _, cause in results):
            return
        failed = any(cause and cause not in BLAMELESS for _, cause in results) or call.outcome in ("upstream_lost", "upstream_error")
        if not failed and call.outcome not in ("ok", "cut"):
            return
        worth = dict(plan.rewards)
        for arm in plan.arms:
            metrics.experimented(experiment=arm.experiment, arm=arm.arm, outcome="failed" if failed else "ok")
            if arm.experiment in worth:
                self._reward(call, arm, worth[arm.experiment], failed=failed)
            else:
                self._count(call, arm, plan.stops, metrics, failed=failed)

    def _count(self, call: Call, arm: Arm, stops: tuple[Stop, ...], metrics: Metrics, *, failed: bool) -> None:
        key = self._key(call, arm.experiment)
        winner = call.winner
        first = None
        if winner is not None and call.stream and winner.first_byte_at is not None:
            first = (winner.first_byte_at - winner.began) * 1000
        self.experiments.count(key, arm.arm, stops, metrics, failed=failed, first_token_ms=first, charge_nusd=call.charge_nusd)
        if not failed and any(stop.experiment == arm.experiment and stop.rating is not None for stop in stops):
            self.experiments.expect_rating(call.request_id, call.principal.key_id, key, arm.arm)

    def _reward(self, call: Call, arm: Arm, worth_nusd: int, *, failed: bool) -> None:
        memory = next((live.number for live in call.branch.live if live.what == "bandit" and live.name == arm.experiment), 1000.0)
        belief = self.beliefs.setdefault(self._key(call, arm.experiment), {}).setdefault(arm.arm, Belief())
        cost = call.charge_nusd / worth_nusd
        reward = max(-1.0, (0.0 if failed else 1.0) - cost)
        belief.add(reward, memory)
        if not failed:
            self._given.setdefault(call.request_id, []).append(_Given(call.principal.key_id, belief, reward, cost))
            if len(self._given) > MOST_RATED:
                self._given.popitem(last=False)

    @property
    def are_rated(self) -> bool:
        """Whether a rating may teach something."""
        return bool(self._given) or self.experiments.are_rated

    def rated(self, request_id: str, key_id: str, rating: float, metrics: Metrics) -> bool:
        """Somebody says how good an answer was, 0 to 1: that replaces what was assumed of it, and what was said before.

        False: neither a bandit nor a canary chose it here, that was long ago, or another key asked for it.
        """
        tried = self.experiments.rated(request_id, key_id, rating, metrics)
        given = [each for each in self._given.get(request_id, ()) if each.key_id == key_id]
        for each in given:
            better = max(-1.0, min(max(rating, 0.0), 1.0) - each.cost)
            each.belief.mean += (better - each.reward) / (each.belief.seen + 1.0)
            each.reward = better
        return bool(given) or tried


def _session(call: Call) -> tuple[str, str, str]:
    """Sessions are named by clients: those of different keys are different ones."""
    return call.principal.key_id, call.route.name, call.session


_READERS: Final = {
    "experiment": Memory._read_experiment,
    "bandit": Memory._read_bandit,
    "cascade": Memory._read_cascade,
    "hedge": Memory._read_hedge,
    "cache": Memory._read_cache,
    "pace": Memory._read_pace,
    "vendors": Memory._read_vendors,
}
