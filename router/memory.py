"""What is known that policy kinds go by: experiments, bandits, cascades, caches of sessions, the pace of budgets.

What calls taught is kept beside what other processes learned, see `router.experience`. Caches of sessions and second calls that were
saved up are in the memory of this process alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from policies.engine import Branch
from policies.plans import Arm, Live, Plan, Stop
from policies.types import RequestFacts
from router.domain.budgets import NEVER_MS, Bucket, BucketState, Budget
from router.domain.experience import Belief, CascadeState, Experience, VendorSpend, vendors_together
from router.domain.feedback import Answered, Lesson, Taken
from router.domain.pacing import Parts
from router.domain.windows import bucket_set
from router.experiments import Experiments, Key, mark_of
from router.metrics import Metrics
from router.scopes import dims_of
from router.tasks import end

if TYPE_CHECKING:
    from router.call import Attempt, Call
    from router.fleet import FleetView

MOST_SESSIONS: Final = 50_000
CACHE_SECONDS: Final = 300.0
"""How long providers keep a prompt, at the least: five minutes at OpenAI and Anthropic (their pages on prompt caching, 2026-11)."""
LEAST_CACHED_TOKENS: Final = 1024
"""Shorter prompts are not kept (same source)."""
FEWEST_TIMES: Final = 8
MOST_PACED: Final = 10_000
"""Instances of budgets whose spending is looked at part by part."""
MOST_UNTOLD: Final = 20_000
"""Answers that are waited with for the store: the newest ones."""
BURST_OF_HEDGES: Final = 3.0
BLAMELESS: Final = frozenset({"client", "context_length_exceeded", "too_large"})
"""Failures that say nothing of the model: the request was wrong."""


class _Cached(msgspec.Struct, gc=False):
    deployment: str
    tokens: int
    at: float


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
        self.others = Experience()
        """What other processes have learned, and those before."""
        self._used: dict[Key, float] = {}
        """When something was learned last, Unix seconds."""
        self._hedges: dict[Key, float] = {}
        """Second calls that are allowed."""
        self._sessions: OrderedDict[tuple[str, str, str], _Cached] = OrderedDict()
        self._answered: deque[Answered] = deque(maxlen=MOST_UNTOLD)
        """Answers whose ratings teach something, until the store knows them."""
        self._spent: dict[tuple[str, str, str], tuple[int, int]] = {}
        """Used and limit, by budget, scope and window."""
        self._paced: OrderedDict[tuple[str, str], Parts] = OrderedDict()
        """What budgets spent in parts of their windows, by budget and scope, those met first at the front."""
        self._budgets: Mapping[str, Budget] = {}
        self.copies: set[asyncio.Task[None]] = set()
        """Copies of requests that are under way."""

    async def close(self) -> None:
        """Give up the copies that are under way; what they cost so far is booked."""
        await end([*self.copies])

    def savings(self) -> Iterator[tuple[str, float]]:
        """What each cascade saves that has been used often enough: its name, and the share of the price of its last step alone."""
        for key in self.cascades:
            pays = self._cascade(key).pays
            if pays is not None:
                yield key[2], pays

    def vendor_shares(self) -> Iterator[tuple[str, str, float]]:
        """What providers have had: name of the cap, provider, and share of the money."""
        for key in self.vendors:
            for provider, share in self._vendors(key).shares().items():
                yield key[2], provider, share

    # -- what is shared

    def own(self) -> Experience:
        """What this process has learned; it goes on learning in the same objects."""
        trials = {mark_of(key): found.own for key, found in self.experiments.known.items()}
        return Experience(
            used_ms={mark: int(trial.since * 1000) for mark, trial in trials.items()}
            | {mark_of(key): int(at * 1000) for key, at in self._used.items()},
            trials=trials,
            bandits={mark_of(key): beliefs for key, beliefs in self.beliefs.items()},
            cascades={mark_of(key): state for key, state in self.cascades.items()},
            vendors={mark_of(key): spend for key, spend in self.vendors.items()},
        )

    def go_by(self, others: Experience) -> None:
        """Know from now on what others have learned, and nothing else of them."""
        self.others, self.experiments.others = others, others.trials

    def forget_own(self) -> None:
        """Others have it by now: it would count twice."""
        self.experiments.known.clear()
        for each in (self.beliefs, self.cascades, self.vendors, self._used):
            each.clear()

    def _belief(self, key: Key, deployment: str) -> Belief | None:
        own = self.beliefs.get(key, {}).get(deployment)
        others = self.others.bandits.get(mark_of(key), {}).get(deployment)
        return own if others is None else (own or Belief()).beside(others)

    def _cascade(self, key: Key) -> CascadeState:
        own = self.cascades.get(key) or CascadeState()
        others = self.others.cascades.get(mark_of(key))
        return own if others is None else own.beside(others)

    def _vendors(self, key: Key) -> VendorSpend:
        others = self.others.vendors.get(mark_of(key))
        return self.vendors[key] if others is None else vendors_together((self.vendors[key], others))

    # -- reading

    def facts(self, call: Call, branch: Branch, views: Sequence[FleetView]) -> RequestFacts:
        """The facts with the numbers that the branch's kinds read."""
        numbers: dict[str, float] = {}
        for live in branch.live:
            _READERS[live.what](self, numbers, call, live, views)
        return msgspec.structs.replace(call.facts, live=numbers)

    def _key(self, call: Call, name: str) -> Key:
        told = next((live for live in call.branch.live if live.name == name and live.what in ("experiment", "bandit", "cascade")), None)
        if told is None:
            return call.route.name, call.branch.rule, name, ""
        return call.route.name, told.rule or call.branch.rule, name, told.version

    def _read_experiment(self, numbers: dict[str, float], call: Call, live: Live, views: Sequence[FleetView]) -> None:
        key = self._key(call, live.name)
        found = self.experiments.of(key, live.since)
        numbers[f"age/{live.name}"] = max(0.0, self._clock() - self.experiments.since(key, live.since))
        if found.stopped:
            numbers[f"stopped/{live.name}"] = 1.0

    def _read_bandit(self, numbers: dict[str, float], call: Call, live: Live, views: Sequence[FleetView]) -> None:
        key = self._key(call, live.name)
        for view in views:
            belief = self._belief(key, view.traits.deployment)
            if belief is not None:
                numbers[f"n/{live.name}/{view.traits.deployment}"] = min(belief.seen, live.number)
                numbers[f"mean/{live.name}/{view.traits.deployment}"] = belief.mean

    def _read_cascade(self, numbers: dict[str, float], call: Call, live: Live, views: Sequence[FleetView]) -> None:
        state = self._cascade(self._key(call, live.name))
        pays = state.pays
        if pays is not None:
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
        key = self._key(call, live.name)
        self.vendors.setdefault(key, VendorSpend(live.number)).half_seconds = live.number
        for provider, share in self._vendors(key).shares().items():
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
                spent, passed = used / limit, (now_ms - bucket.starts_ms) / (bucket.ends_ms - bucket.starts_ms)
                numbers[f"spent/{live.name}"], numbers[f"passed/{live.name}"] = spent, passed
                lead = self._parts(bucket, spent, passed).lead(spent, passed)
                if lead:
                    numbers[f"lead/{live.name}"] = lead

    def _parts(self, bucket: Bucket, spent: float, passed: float) -> Parts:
        key = bucket.budget, bucket.scope
        parts = self._paced.get(key)
        if parts is None or parts.window != bucket.window:
            parts = self._paced[key] = Parts(bucket.window, spent, passed)
            self._paced.move_to_end(key)
            if len(self._paced) > MOST_PACED:
                self._paced.popitem(last=False)
        return parts

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
        key = self._key(call, name)
        self._used[key] = self._clock()
        self.cascades.setdefault(key, CascadeState()).add(spent_nusd=call.charge_nusd, alone_nusd=alone_nusd, escalated=escalated)
        return self._cascade(key).pays

    def learn(self, call: Call, plan: Plan, results: Sequence[tuple[Attempt, str]], metrics: Metrics) -> None:
        """Learn from a call that is over. `results`: its attempts, and why each failed."""
        if plan.keeps_cache and call.session and call.winner is not None and call.usage is not None:
            self._sessions[_session(call)] = _Cached(call.winner.deployment.name, call.usage.input_tokens, self._clock())
            self._sessions.move_to_end(_session(call))
            if len(self._sessions) > MOST_SESSIONS:
                self._sessions.popitem(last=False)
        for name in plan.spends:
            key = self._key(call, name)
            self._used[key] = self._clock()
            for attempt, _ in results:
                self.vendors.setdefault(key, VendorSpend(_live(call, "vendors", name).number)).add(
                    attempt.deployment.provider.name, attempt.charge_nusd, self._clock()
                )
        if not plan.arms or not results or all(cause in BLAMELESS for _, cause in results):
            return
        failed = any(cause and cause not in BLAMELESS for _, cause in results) or call.outcome in ("upstream_lost", "upstream_error")
        if not failed and call.outcome not in ("ok", "cut"):
            return
        worth = dict(plan.rewards)
        lessons: list[Lesson | None] = []
        for arm in plan.arms:
            metrics.experimented(experiment=arm.experiment, arm=arm.arm, outcome="failed" if failed else "ok")
            if arm.experiment in worth:
                lessons.append(self._reward(call, arm, worth[arm.experiment], failed=failed))
            else:
                lessons.append(self._count(call, arm, plan.stops, metrics, failed=failed))
        rated = tuple([lesson for lesson in lessons if lesson is not None])
        if rated and not failed:
            self._answered.append(Answered(call.request_id, call.principal.key_id, rated))

    def _count(self, call: Call, arm: Arm, stops: tuple[Stop, ...], metrics: Metrics, *, failed: bool) -> Lesson | None:
        """Count a call of an arm. What a rating would say; None: nobody looks at ratings."""
        key = self._key(call, arm.experiment)
        self._used[key] = self._clock()
        winner = call.winner
        first = None
        if winner is not None and call.stream and winner.first_byte_at is not None:
            first = (winner.first_byte_at - winner.began) * 1000
        self.experiments.count(key, arm.arm, stops, metrics, failed=failed, first_token_ms=first, charge_nusd=call.charge_nusd)
        looked_at = any(stop.experiment == arm.experiment and stop.rating is not None for stop in stops)
        return Lesson(key, arm.arm, self.experiments.of(key).own.run) if looked_at else None

    def _reward(self, call: Call, arm: Arm, worth_nusd: int, *, failed: bool) -> Lesson:
        memory = _live(call, "bandit", arm.experiment).number
        key = self._key(call, arm.experiment)
        self._used[key] = self._clock()
        belief = self.beliefs.setdefault(key, {}).setdefault(arm.arm, Belief())
        cost = call.charge_nusd / worth_nusd
        belief.add(_worth(0.0 if failed else 1.0, cost), memory)
        return Lesson(key, arm.arm, cost=cost)

    def untold(self) -> list[Answered]:
        """Answers since the last call whose ratings teach something: the store is to know them, or they are given back."""
        untold = [*self._answered]
        self._answered.clear()
        return untold

    def give_back(self, untold: Iterable[Answered]) -> None:
        """The store does not know them."""
        self._answered = deque([*untold, *self._answered], MOST_UNTOLD)

    def rated(self, taken: Taken, rating: float, metrics: Metrics) -> None:
        """Somebody says how good an answer was, 0 to 1, whichever process gave it: that replaces what was assumed of it or said before."""
        for lesson in taken.lessons:
            self._used[lesson.key] = self._clock()
            if lesson.cost is None:
                self.experiments.rated(lesson, taken.before, rating, metrics)
                continue
            # A reward that another process added is changed by a sum here: what all know together comes to the same.
            belief = self.beliefs.setdefault(lesson.key, {}).setdefault(lesson.arm, Belief())
            assumed = 1.0 if taken.before is None else taken.before
            belief.mean += (_worth(rating, lesson.cost) - _worth(assumed, lesson.cost)) / (belief.seen + 1.0)


def _worth(good: float, cost: float) -> float:
    """The reward of an answer: how good it was, less its cost."""
    return max(-1.0, good - cost)


def _live(call: Call, what: str, name: str) -> Live:
    """What a kind of the call's branch reads; a plan names only kinds that do."""
    return next(live for live in call.branch.live if live.what == what and live.name == name)


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
