"""Near the end of a budget: who waits for room, who is given less, and what is kept free for streams under way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from router.call import Attempt
from router.domain.budgets import Bucket, BucketSet, Refusal, Reservation
from router.domain.estimate import capped, clamped, fitting_output
from router.domain.learning import LEAST_WRITTEN
from router.domain.limits import is_rate_limit
from router.domain.metering import Metered
from router.domain.shortage import DEFAULT, OnShort, Plan, plan_of
from router.metrics import Metrics
from router.ports import BudgetStore
from router.relay import extend_to
from router.reservation import Reservations
from router.snapshot import Snapshot

MOST_WAITING: Final = 256
"""Calls that wait for one bucket at a time; others take their next way at once."""
KEPT_FREE: Final = 50
"""Percent of what streams under way will likely hold beyond what they hold, that a new call leaves to them: not all get so long."""
KEPT_AT_FIRST: Final = 600
"""The same for a call that can wait for it first: fewer are under way, and have money tied up, when the first one is refused."""
KEPT_AT_LAST: Final = 20
"""The same for a call that has waited for `PATIENCE`: it is about to be refused."""
PATIENCE: Final = 0.75
"""Share of the longest wait. The rest is for those who stand behind it: they may have come in the same moment."""
POLL_SECONDS: Final = 0.1
"""How often the first who waits looks for room that another process has left."""
SOFT_SHARE: Final = 0.5
"""After this share of the longest wait the least cap will do."""
CLAMP_TRIES: Final = 3
"""How often a smaller cap is worked out: others may take the room meanwhile."""
LEAST_SLICE: Final = 64
"""Output tokens that a stream near the end of a budget is extended by at least."""
MOST_SCOPES: Final = 10_000
"""Scopes of a budget and window whose first refusal is remembered."""

_OTHERWISE: Final = plan_of(DEFAULT)
"""For limits that are no budgets."""
BucketKey = tuple[str, str, str]


def _key(bucket: Bucket) -> BucketKey:
    return bucket.budget, bucket.scope, bucket.window


class _Line:
    """Who waits for room in one bucket, in order. Streams under way come before calls that have not begun."""

    __slots__ = ("_fresh", "_under_way", "refusal")

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        """The latest answer of the store."""
        self._under_way: deque[asyncio.Event] = deque()
        self._fresh: deque[asyncio.Event] = deque()

    def __len__(self) -> int:
        return len(self._under_way) + len(self._fresh)

    @property
    def streams_wait(self) -> bool:
        return bool(self._under_way)

    def join(self, *, under_way: bool) -> asyncio.Event:
        place = asyncio.Event()
        (self._under_way if under_way else self._fresh).append(place)
        return place

    def leave(self, place: asyncio.Event) -> None:
        (self._under_way if place in self._under_way else self._fresh).remove(place)

    def first(self) -> asyncio.Event | None:
        return self._under_way[0] if self._under_way else self._fresh[0] if self._fresh else None


class Shortages:
    """What a budget's `on_short` says is done when it has too little room for a call."""

    def __init__(
        self,
        snapshot: Snapshot,
        *,
        reservations: Reservations,
        store: BudgetStore,
        void: Callable[[Reservation], Awaitable[None]],
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        """`void` gives a hold back now or later, also if it is cancelled; `clock` gives monotonic seconds."""
        self._plans: Mapping[str, Plan] = {budget.name: plan_of(budget.on_short) for budget in snapshot.budgets}
        self._reservations = reservations
        self._store = store
        self._void = void
        self._metrics = metrics
        self._clock = clock
        self._wait_seconds = snapshot.server.short_wait_seconds
        self._least_output = snapshot.server.least_output_tokens
        self.waits = any(plan.waits for plan in self._plans.values())
        """Whether any budget lets calls wait: then streams under way are known here."""
        self.lines: dict[BucketKey, _Line] = {}
        """Where anybody waits."""
        self.streams: dict[str, tuple[Sequence[BucketKey], int]] = {}
        """Streams under way: the buckets for which calls wait, and what it will likely hold beyond its hold, nano-USD."""
        self.likely: dict[BucketKey, int] = {}
        """The sum of that for all streams under way in a bucket."""
        self._first_refusals: dict[str, tuple[str, dict[str, float]]] = {}

    # -- what the pipeline asks

    def plan(self, refusal: Refusal) -> Plan:
        """What is done about a refusal."""
        return self._plans.get(refusal.bucket.budget, _OTHERWISE)

    def behind(self, buckets: BucketSet | None) -> Refusal | None:
        """What a call is told that comes while others wait for the same bucket: it must not overtake them."""
        for bucket in buckets.buckets if buckets is not None else ():
            line = self.lines.get(_key(bucket))
            if line is not None:
                return line.refusal
        return None

    async def relieve(self, attempt: Attempt, held: Reservation | Refusal, ways: Sequence[OnShort] | None) -> Reservation | Refusal:
        """Hold money for an attempt that was refused it, or whose hold leaves too little for streams under way.

        `ways`: what to try; None: what the budget says is tried first.

        Raises:
            StoreUnavailable: nothing is held.
        """
        refusal = held if isinstance(held, Refusal) else self._crowded(held, self._kept_before(held, ways))
        if refusal is None:
            return held
        if isinstance(held, Reservation):
            await self._give_back(attempt, held)
        if refusal.bucket.unit != "usd":
            return refusal
        for way in self.plan(refusal).first if ways is None else ways:
            answer = await (self._wait(attempt, refusal) if way == "wait" else self._clamp(attempt, refusal))
            if isinstance(answer, Reservation):
                self._metrics.refused(budget=refusal.bucket.budget, action=way)
                return answer
            refusal = answer
        return refusal

    def _kept_before(self, held: Reservation, ways: Sequence[OnShort] | None) -> int:
        """Percent that is left to streams by a call that has not waited."""
        if ways is None and held.tightest is not None:
            ways = self._plans.get(held.tightest.budget, _OTHERWISE).first
        return KEPT_AT_FIRST if ways and ways[0] == "wait" else KEPT_FREE

    def _crowded(self, held: Reservation, percent: int) -> Refusal | None:
        """A refusal, if streams under way may need what this hold would leave. They come first: cut answers are wasted."""
        left, tightest = held.tightest_left_nusd, held.tightest
        if left is None or tightest is None or not self.likely:
            return None
        needed = self.likely.get(_key(tightest), 0) * percent // 100
        if left >= needed:
            return None
        limit = tightest.limit_nusd
        return Refusal(
            bucket=tightest,
            limit_nusd=limit,
            spent_nusd=max(0, limit - left - held.amount_nusd),
            held_nusd=min(needed, limit),
            needed_nusd=held.amount_nusd,
        )

    async def _give_back(self, attempt: Attempt, held: Reservation) -> None:
        """Undo a hold before anything was sent. The attempt goes on under another id: its old one has ended."""
        await self._void(held)
        attempt.returned += 1
        attempt.attempt_id = f"{attempt.call.request_id}.{attempt.number}.{attempt.returned}"

    def began(self, attempt: Attempt) -> None:
        """A stream is under way. `ended` must follow."""
        made, tariff, likely = attempt.estimate, attempt.deployment.tariff, 0
        if made.lengths is not None and tariff is not None and made.held_output_tokens < made.output_tokens:
            # On average it holds half a slice that it has not used.
            likely = max(0, made.lengths.remaining - made.slice_tokens // 2) * tariff.dearest_output // 1_000_000
        plans = self._plans
        keys = [_key(bucket) for bucket in attempt.held.buckets.buckets if plans.get(bucket.budget, _OTHERWISE).waits] if likely else ()
        for key in keys:
            self.likely[key] = self.likely.get(key, 0) + likely
        self.streams[attempt.attempt_id] = (keys, likely)

    def ended(self, attempt: Attempt) -> None:
        """An attempt is settled: what it did not need is free for who waits."""
        keys, likely = self.streams.pop(attempt.attempt_id, ((), 0))
        for key in keys:
            self.likely[key] -= likely
            if not self.likely[key]:
                del self.likely[key]
        for bucket in attempt.held.buckets.buckets if self.lines else ():
            line = self.lines.get(_key(bucket))
            place = None if line is None else line.first()
            if place is not None:
                place.set()

    def last_ways(self, refusals: Mapping[str, Refusal]) -> Iterator[tuple[OnShort, str]]:
        """What to do once no candidate fits, and for which deployment. `refusals` are by deployment, in their order."""
        for way in self.plan(next(iter(refusals.values()))).then:
            # Room that is waited for goes to the candidate that comes first.
            for name in list(refusals)[: 1 if way == "wait" else None]:
                yield way, name

    def found_cheaper(self, refusals: Mapping[str, Refusal]) -> None:
        """A candidate was called after others did not fit."""
        if refusals and not is_rate_limit(_last(refusals).bucket):
            self._metrics.refused(budget=_last(refusals).bucket.budget, action="cheaper")

    def refused(self, refusals: Mapping[str, Refusal]) -> None:
        """A client is refused: keep how full the budget was at the first time of a window."""
        refusal = _last(refusals)
        if refusal.bucket.unit != "usd":
            return
        bucket = refusal.bucket
        window, shares = self._first_refusals.get(bucket.budget, ("", {}))
        if window != bucket.window:
            window, shares = self._first_refusals[bucket.budget] = bucket.window, {}
        if refusal.limit_nusd and len(shares) < MOST_SCOPES:
            shares.setdefault(bucket.scope, min(1.0, refusal.spent_nusd / refusal.limit_nusd))

    def usable(self) -> Iterable[tuple[str, float]]:
        """The share of each budget that was spent at its first refusal in the latest window that had one; the least of all scopes."""
        for budget, (_, shares) in self._first_refusals.items():
            if shares:
                yield budget, min(shares.values())

    # -- streams

    async def extend(
        self, attempt: Attempt, wanted: int, written: int, refusal: Refusal, still_covers: Callable[[], bool]
    ) -> tuple[Reservation | Refusal, int]:
        """Hold money for more output of a stream that was refused it: as much as there is room for, after a wait if need be.

        `wanted` and `written` count output tokens, `written` what may have come. A provider writes on while its stream waits: the
        wait ends when what is held does not cover that any more. Returns the tokens that are held too.

        Raises:
            StoreUnavailable: what was held is held.
        """
        if refusal.bucket.unit != "usd":
            return refusal, wanted
        answer, tokens = await self._extend_by_room(attempt, wanted, written, refusal)
        if isinstance(answer, Reservation) or not self.plan(refusal).waits:
            return answer, tokens
        found = tokens

        async def try_again() -> Reservation | Refusal:
            nonlocal found
            answer, found = await self._extend_to(attempt, wanted), wanted
            if isinstance(answer, Refusal):
                answer, found = await self._extend_by_room(attempt, wanted, written, answer)
            return answer

        answer = await self._stand_in_line(answer, try_again, still_covers)
        if isinstance(answer, Reservation):
            self._metrics.refused(budget=refusal.bucket.budget, action="wait")
        return answer, found

    async def _extend_by_room(self, attempt: Attempt, wanted: int, written: int, refusal: Refusal) -> tuple[Reservation | Refusal, int]:
        room = attempt.held.amount_nusd + refusal.left_nusd
        tokens = fitting_output(
            attempt.call.request,
            attempt.deployment,
            attempt.estimate,
            room,
            at_least=min(written + LEAST_SLICE, wanted),
            timeouts=attempt.way.timeouts,
        )
        if tokens is None:
            return refusal, wanted
        tokens = min(tokens, wanted)
        return await self._extend_to(attempt, tokens), tokens

    async def _extend_to(self, attempt: Attempt, output_tokens: int) -> Reservation | Refusal:
        return await extend_to(self._store, attempt, output_tokens)

    # -- inside

    async def _hold(self, attempt: Attempt, waited: float) -> Reservation | Refusal:
        """Hold what is asked for. `waited`: the share of the longest wait that is over."""
        held = await self._reservations.hold_now(attempt)
        if isinstance(held, Refusal):
            return held
        crowded = self._crowded(held, kept_after(waited))
        if crowded is None:
            return held
        await self._give_back(attempt, held)
        return crowded

    async def _wait(self, attempt: Attempt, refusal: Refusal) -> Reservation | Refusal:
        """Stand in line. If a smaller cap comes next anyway, less is asked for the longer the wait was: more calls get an
        answer in time than if each held all that it could.
        """
        began, made = self._clock(), attempt.estimate
        full = made.output_cap or 0
        # A stream holds little at a time as it is.
        softens = self.plan(refusal).softens and made.held_output_tokens == made.output_tokens

        async def try_again() -> Reservation | Refusal:
            waited = (self._clock() - began) / self._wait_seconds
            cap = max(int(full * (1 - waited / SOFT_SHARE)), self._least_output)
            if not softens or cap >= full or attempt.deployment.price is None:
                return await self._hold(attempt, waited)
            attempt.estimate = capped(attempt.call.request, attempt.deployment, made, cap, attempt.way.timeouts)
            answer = await self._hold(attempt, waited)
            if isinstance(answer, Reservation):
                attempt.clamped_to = cap
            return answer

        answer = await self._stand_in_line(refusal, try_again)
        if isinstance(answer, Refusal):
            attempt.estimate = made
        return answer

    async def _stand_in_line(
        self,
        refusal: Refusal,
        try_again: Callable[[], Awaitable[Reservation | Refusal]],
        still_covers: Callable[[], bool] | None = None,
    ) -> Reservation | Refusal:
        """Try again whenever there may be room and it is our turn, until there is or the time is over. At its end everybody
        tries, unless a stream under way waits: where many come, a turn may come too late.

        `still_covers` is given by streams under way, and ends their wait.
        """
        under_way = still_covers is not None
        key = _key(refusal.bucket)
        line = self.lines.setdefault(key, _Line(refusal))
        if len(line) >= MOST_WAITING:
            return refusal
        place = line.join(under_way=under_way)
        deadline = self._clock() + self._wait_seconds
        try:
            while (left := deadline - self._clock()) > 0:
                if still_covers is not None and not still_covers():
                    return refusal
                await _woken(place, left if still_covers is None and line.first() is not place else min(left, POLL_SECONDS))
                if line.first() is not place:
                    continue
                place.clear()
                answer = await try_again()
                if isinstance(answer, Reservation):
                    return answer
                refusal = line.refusal = answer
            return refusal if under_way or line.streams_wait else await try_again()
        finally:
            line.leave(place)
            following = line.first()
            if following is not None:
                following.set()
            else:
                del self.lines[key]

    async def _clamp(self, attempt: Attempt, refusal: Refusal) -> Reservation | Refusal:
        """Hold and forward the largest smaller cap that there is room for."""
        made = attempt.estimate
        for _ in range(CLAMP_TRIES):
            smaller = clamped(
                attempt.call.request,
                attempt.deployment,
                made,
                room_nusd=refusal.left_nusd,
                least=self._least_output,
                timeouts=attempt.way.timeouts,
            )
            if smaller is None or refusal.bucket.unit != "usd":
                break
            attempt.estimate = smaller
            answer = await self._reservations.hold_now(attempt)
            if isinstance(answer, Reservation):
                attempt.clamped_to = smaller.output_cap or 0
                return answer
            refusal = answer
        attempt.estimate = made
        return refusal


def kept_after(waited: float) -> int:
    """Percent that a call leaves to streams after this share of the longest wait: it gives way late, and then all at once."""
    return KEPT_AT_FIRST - int((KEPT_AT_FIRST - KEPT_AT_LAST) * min(1.0, waited / PATIENCE) ** 4)


def teach(attempt: Attempt, metered: Metered, metrics: Metrics) -> None:
    """Learn from the provider's own count of a whole answer how much to hold for the next one."""
    made, usage = attempt.estimate, metered.usage
    if usage.evidence != "exact":
        return
    if made.share is not None:
        made.share.add(usage.input_tokens, attempt.call.request.shape.tokens_bound)
    if made.written is not None and attempt.meter is not None and attempt.meter.output_tokens_bound >= LEAST_WRITTEN:
        made.written.add(usage.output_tokens, attempt.meter.output_tokens_bound)
    cap = attempt.clamped_to or made.own_cap
    cut = 0 < cap <= usage.output_tokens
    if cut:
        metrics.answer_clamped(model=attempt.deployment.model, cause="shortage" if attempt.clamped_to else "learned")
    if made.lengths is None or not usage.output_tokens:
        return
    if cut:
        made.lengths.cut(cap)
    else:
        made.lengths.add(usage.output_tokens)


def _last(refusals: Mapping[str, Refusal]) -> Refusal:
    return next(reversed(list(refusals.values())))


async def _woken(place: asyncio.Event, seconds: float) -> None:
    """Until it is set, at most so long."""
    try:
        async with asyncio.timeout(seconds):
            await place.wait()
    except TimeoutError:
        return
