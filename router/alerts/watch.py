"""The service of alerts: looks every few seconds, tells each thing once over all replicas. Never on the path of a request.

Every replica looks at what only it can see. What all share (budgets, the log) is looked at by one of them, which leads.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from router.alerts import forecast, listen, statistics
from router.alerts.anomaly import HOUR_MS, WEEK_HOURS, WEEKS, anomaly
from router.alerts.config import AlertRules, Receiver
from router.alerts.delivery import FIRST_WAIT_SECONDS, Counter, Delivery, SenderOf
from router.alerts.events import Event, decode, encode
from router.alerts.local import Local, StoreAlarm, drifted, unpriced
from router.alerts.ports import AlertStore
from router.alerts.thresholds import KIND as THRESHOLD_KIND
from router.alerts.thresholds import Crossing, crossings, event_of, grouped, is_told, keep_ms, rearmed
from router.domain.budgets import BucketState, Budget
from router.domain.windows import escape_scope
from router.errors import LogReplaced, StoreUnavailable
from router.ports import Drift
from router.snapshot import Snapshot
from router.tasks import Background

log = structlog.get_logger("faregate.alerts")

LEASE_MS: Final = 30_000
"""How long a replica leads that does not come back."""
LEAST_LEASE_TICKS: Final = 3
MARKS_MS: Final = 60_000
"""How often the leader reads what was told, and looks for events that nobody delivered."""
THINK_MS: Final = 30_000
"""How often the leader makes forecasts and compares hours; saving the statistics included."""
PAGES: Final = 20
"""Pages of the log that are read at a time: bounds how long requests of this worker wait."""
WAITING: Final = 1_000
"""Events that wait for the store; the oldest go first."""
THRESHOLD: Final = f"{THRESHOLD_KIND}|"
LOOK_BACK_MS: Final = WEEKS * WEEK_HOURS * HOUR_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What is looked at."""

    snapshot: Callable[[], Snapshot]
    """The configuration in force."""
    states: Callable[[], Sequence[BucketState]]
    """Buckets of the current windows, a few seconds old."""
    drifts: Callable[[], Sequence[Drift] | None]
    """What the last audit of the ledger found; None while another process audits."""
    store_up: Callable[[], bool]


class Alerts:
    """Runs until it is closed."""

    def __init__(
        self,
        *,
        store: AlertStore,
        owner: str,
        sources: Sources,
        local: Local,
        sender_of: SenderOf,
        counter: Counter,
        clock_ms: Callable[[], int],
        store_away: Callable[[str], None],
        first_wait_seconds: float = FIRST_WAIT_SECONDS,
    ) -> None:
        """`owner` names this replica; `clock_ms` gives Unix milliseconds."""
        self._store = store
        self._owner = owner
        self._sources = sources
        self._local = local
        self._sender_of = sender_of
        self._counter = counter
        self._clock_ms = clock_ms
        self._first_wait_seconds = first_wait_seconds
        self._background = Background(store_away=store_away)
        self._alarm = StoreAlarm()
        self._waiting: deque[Event] = deque(maxlen=WAITING)
        self._unlisten: Callable[[], None] = lambda: None
        self._receivers: tuple[Receiver, ...] = ()
        self._delivery: Delivery | None = None
        self._sending: set[str] = set()
        """Ids of events that this process is delivering."""
        self._undone: set[str] = set()
        """Marks whose event was delivered, which the store does not know yet."""
        self._known: dict[str, int] = {}
        """Marks that this process has seen, and until when: asked for once, not with every look."""
        self.leads = False
        """Whether this replica looks at what all share."""
        self._statistics: statistics.Statistics | None = None
        self._caught_up = False
        self._due: dict[str, int] = {}

    def start(self) -> None:
        """Begin to look."""
        self._unlisten = listen(self._waiting.append)
        self._background.every(self._rules.every_seconds, self.look, name="alerts", at_once=True)

    async def close(self) -> None:
        """Stop. What was not delivered is delivered by whoever leads next."""
        self._unlisten()
        await self._background.close()
        if self.leads:
            with suppress(StoreUnavailable):
                await self._store.lead(self._owner, lease_ms=0)
        if self._delivery is not None:
            await self._delivery.close()

    @property
    def _rules(self) -> AlertRules:
        return self._sources.snapshot().alerts

    async def look(self) -> None:
        """Look once.

        Raises:
            StoreUnavailable: what was noticed waits until it is back.
        """
        snapshot, now = self._sources.snapshot(), self._clock_ms()
        await self._configure(snapshot.receivers)
        said = self._alarm.look(up=self._sources.store_up(), now_ms=now, after_seconds=snapshot.alerts.store_seconds)
        # The store cannot be asked who tells it: the one that led does.
        if said is not None and self.leads:
            self._send(self._stamped(said, now))
        drifts = self._sources.drifts()
        for event in [*self._local.look(provider_seconds=snapshot.alerts.provider_seconds), *([drifted(drifts)] if drifts else [])]:
            if self._known.get(event.marker, 0) <= now and all(event.marker != each.marker for each in self._waiting):
                self._waiting.append(event)
        await self._tell_waiting(now)
        lease_ms = max(LEASE_MS, round(LEAST_LEASE_TICKS * 1000 * snapshot.alerts.every_seconds))
        store_ms = await self._store.lead(self._owner, lease_ms=lease_ms)
        if store_ms is None:
            self._follow()
        else:
            await self._lead(snapshot, store_ms)

    # Telling

    async def tell(self, event: Event, now_ms: int) -> bool:
        """Send an event unless it was told before. False: it was."""
        keep = event.keep_ms or round(1000 * self._rules.repeat_seconds)
        event = self._stamped(event, now_ms)
        first = await self._store.mark(event.marker, keep_ms=keep, event=encode(event))
        self._known[event.marker] = now_ms + keep
        if first:
            self._send(event)
        return first

    async def _tell_waiting(self, now: int) -> None:
        while self._waiting:
            event = self._waiting.popleft()
            try:
                await self.tell(event, now)
            except StoreUnavailable:
                self._waiting.appendleft(event)
                raise
        for name in tuple(self._undone):
            await self._store.done(name)
            self._undone.discard(name)
        if len(self._known) > WAITING:
            self._known = {name: until for name, until in self._known.items() if until > now}

    def _stamped(self, event: Event, now_ms: int) -> Event:
        return msgspec.structs.replace(event, at_ms=event.at_ms or now_ms, id=event.id or f"alert_{secrets.token_hex(12)}")

    def _send(self, event: Event) -> None:
        log.warning("alert", kind=event.kind, severity=event.severity, subject=event.subject, id=event.id)
        if self._delivery is None or not self._delivery.put(event):
            self._undone.add(event.marker)
        else:
            self._sending.add(event.id)

    async def _delivered(self, event: Event) -> None:
        self._sending.discard(event.id)
        try:
            await self._store.done(event.marker)
        except StoreUnavailable:
            self._undone.add(event.marker)

    async def _configure(self, receivers: tuple[Receiver, ...]) -> None:
        """Take new receivers into use, at the start and after a reload."""
        if self._delivery is not None and receivers is self._receivers:
            return
        if self._delivery is not None:
            await self._delivery.close()
            self._sending.clear()
        self._receivers = receivers
        self._delivery = Delivery(
            receivers,
            sender_of=self._sender_of,
            counter=self._counter,
            done=self._delivered,
            first_wait_seconds=self._first_wait_seconds,
        )

    # Leading

    def _follow(self) -> None:
        """Another one leads: what was known of what all share is out of date."""
        self.leads, self._statistics, self._caught_up = False, None, False
        self._due.clear()

    def _is_due(self, what: str, now: int, every_ms: int) -> bool:
        if now < self._due.get(what, 0):
            return False
        self._due[what] = now + every_ms
        return True

    async def _lead(self, snapshot: Snapshot, now: int) -> None:
        self.leads = True
        if self._is_due("marks", now, MARKS_MS):
            await self._read_marks(now)
        # Rates, such as requests a minute, are limits too, but no news.
        counted = {budget.name: budget for budget in snapshot.budgets if is_told(budget)}
        budgets = {name: budget for name, budget in counted.items() if budget.unit == "usd"}
        await self._look_at_budgets(counted, now)
        await self._read_log(snapshot, budgets, now)
        if self._caught_up and self._is_due("think", now, THINK_MS):
            await self._think(snapshot, budgets, now)

    async def _read_marks(self, now: int) -> None:
        """Learn what was told, and send what whoever told it did not live to deliver."""
        marks = await self._store.marks()
        # Crossings that are told again were forgotten by whoever led then.
        ours = {name: until for name, until in self._known.items() if not name.startswith(THRESHOLD)}
        self._known = ours | {name: mark.until_ms for name, mark in marks.items()}
        patience_ms = 2 * (self._delivery.longest_ms if self._delivery is not None else 0)
        for name, mark in marks.items():
            event = decode(mark.event) if mark.event is not None else None
            if event is not None and event.id not in self._sending and now - event.at_ms > patience_ms:
                self._send(event)
            elif event is None and mark.event is not None:
                self._undone.add(name)

    async def _look_at_budgets(self, budgets: dict[str, Budget], now: int) -> None:
        states = self._sources.states()
        known = {name: until for name, until in self._known.items() if until > now}
        again = rearmed(states, budgets, known)
        if again:
            await self._store.clear(again)
            for name in again:
                del self._known[name], known[name]
        for group in grouped(crossings(states, budgets, known)):
            await self._tell_crossings(group, budgets[group[0].state.budget], now)

    async def _tell_crossings(self, group: Sequence[Crossing], budget: Budget, now: int) -> None:
        """One event for the group; its other marks are noted without one."""
        event = event_of(group, budget)
        told = False
        for crossing in group:
            keep = keep_ms(crossing.state, now)
            *below, name = crossing.names
            if told:
                below.append(name)
            else:
                told = await self.tell(msgspec.structs.replace(event, about=name.partition("|")[2], keep_ms=keep), now)
            for each in below:
                await self._store.mark(each, keep_ms=keep, event=b"")
                self._known[each] = now + keep

    async def _read_log(self, snapshot: Snapshot, budgets: dict[str, Budget], now: int) -> None:
        if self._statistics is None:
            self._statistics = statistics.decode(await self._store.load())
        found = self._statistics
        for _ in range(PAGES):
            try:
                cursor, records = await self._store.page(found.cursor, since_ms=now - LOOK_BACK_MS)
            except LogReplaced:
                found.cursor = ""
                continue
            if cursor == found.cursor:
                self._caught_up = True
                return
            for record in records:
                found.add(record, budgets=budgets, is_team=snapshot.teams.__contains__)
            found.cursor = cursor
            self._due.setdefault("save", now)
            # Requests first.
            await asyncio.sleep(0)

    async def _think(self, snapshot: Snapshot, budgets: dict[str, Budget], now: int) -> None:
        rules, found = snapshot.alerts, self._statistics
        if found is None:
            return
        if self._due.pop("save", None) is not None:
            found.forget(now)
            await self._store.save(statistics.encode(found))
        events = self._unpriced(snapshot, found)
        if rules.forecast:
            events += _forecasts(self._sources.states(), budgets, found, now)
        if rules.anomaly and found.first_hour is not None:
            events += [
                event
                for name, hours in found.hours.items()
                if (
                    event := anomaly(
                        name,
                        hours,
                        now_ms=now,
                        first_hour=max(found.first_hour, now // HOUR_MS - WEEKS * WEEK_HOURS),
                        least_samples=rules.anomaly_weeks,
                        factor=rules.anomaly_factor,
                        least_nusd=rules.anomaly_least_nusd,
                    )
                )
            ]
        for event in events:
            if self._known.get(event.marker, 0) <= now:
                await self.tell(event, now)

    @staticmethod
    def _unpriced(snapshot: Snapshot, found: statistics.Statistics) -> list[Event]:
        """Deployments that were called at an assumed price and still have none of their own."""
        prices = {name: deployment.price for name, deployment in snapshot.deployments.items()}
        found.assumed = [name for name in found.assumed if (price := prices.get(name)) is not None and price.source == "assumed"]
        return [unpriced(name, counted=True) for name in found.assumed]


def _forecasts(states: Sequence[BucketState], budgets: dict[str, Budget], found: statistics.Statistics, now: int) -> list[Event]:
    events: list[Event] = []
    for state in states:
        burn = found.burns.get(f"{escape_scope(state.budget)}|{state.scope}")
        budget = budgets.get(state.budget)
        if burn is not None and budget is not None:
            event = forecast.budget_forecast(state, budget, burn, now_ms=now, profile=found.profile(now))
            if event is not None:
                events.append(event)
    return events
