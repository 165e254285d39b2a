"""The service of alerts over a real ledger file, with a clock and receivers that the test holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest

from router.adapters.sqlite.ledger import SqliteLedger
from router.alerts import emit
from router.alerts.anomaly import HOUR_MS
from router.alerts.config import AlertRules, Receiver
from router.alerts.events import Event
from router.alerts.local import Local, config_rejected
from router.alerts.watch import Alerts, Sources
from router.domain.budgets import BucketSet, Budget, Reservation
from router.domain.money import from_usd
from router.domain.prices import Price, Rates
from router.domain.windows import bucket_set
from router.snapshot import Snapshot, Team
from tests.running import compiled

START = 1_799_971_200_000
"""A Friday at midnight, UTC."""
WEEK_MS = 168 * HOUR_MS
BASE = "version: 1\nproviders: {p: {kind: vllm, base_url: http://h/v1}}\nmodels: {m: {at: p/m, price: free}}\n"


@dataclass
class World:
    """A ledger file, a clock, and what receivers got."""

    path: str
    now_ms: int = START
    got: list[Event] = field(default_factory=list)
    refuse: bool = False
    counted: list[tuple[str, str]] = field(default_factory=list)
    store_up: bool = True
    opened: list[Alerts] = field(default_factory=list)
    ledgers: list[SqliteLedger] = field(default_factory=list)
    snapshot: Snapshot = field(default_factory=lambda: compiled(BASE))
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def budgets(self, *budgets: Budget) -> None:
        receiver = Receiver(name="r", kind="webhook", endpoint=None, path="", mail=None, secret=None, tries=1)
        self.snapshot = replace(
            self.snapshot,
            budgets=budgets,
            receivers=(receiver,),
            teams={"a": Team(name="a")},
            alerts=AlertRules(every_seconds=0.1, repeat_seconds=3600),
        )

    async def ledger(self) -> SqliteLedger:
        made = SqliteLedger(self.path, clock_ms=lambda: self.now_ms)
        await made.open(replica_id=f"replica-{len(self.ledgers)}", lease_seconds=20)
        self.ledgers.append(made)
        return made

    async def alerts(self, ledger: SqliteLedger, *, owner: str = "one") -> Alerts:
        world, states = self, []

        class Sender:
            async def send(self, event: Event) -> None:
                if world.refuse:
                    await asyncio.Event().wait()
                world.got.append(event)
                world.changed.set()

        class Counter:
            def alert(self, *, kind: str, outcome: str) -> None:
                world.counted.append((kind, outcome))

        made = Alerts(
            store=ledger.alert_store(),
            owner=owner,
            sources=Sources(snapshot=lambda: self.snapshot, states=lambda: states, drifts=lambda: None, store_up=lambda: self.store_up),
            local=Local(counted=lambda _: {}, health=dict, troubles={}),
            sender_of=lambda _: Sender(),
            counter=Counter(),
            clock_ms=lambda: self.now_ms,
            store_away=lambda _: None,
        )
        self.opened.append(made)

        async def look() -> None:
            states[:] = await ledger.bucket_states()
            await made.look()
            for _ in range(5):
                await asyncio.sleep(0)

        LOOKS[made] = look
        return made

    def kinds(self) -> list[str]:
        return [event.kind for event in self.got]

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.got) < count:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(str(tmp_path / "ledger.sqlite"))
    yield made
    for alerts in made.opened:
        await alerts.close()
    for ledger in made.ledgers:
        await ledger.close()


LOOKS: dict[Alerts, Callable[[], Awaitable[None]]] = {}
"""What makes a service look once, with the states of the buckets as they are then."""
numbers = iter(range(1_000_000))


async def charge(world: World, ledger: SqliteLedger, dollars: float, **more: object) -> None:
    """Book a call."""
    buckets: BucketSet = bucket_set(world.snapshot.budgets, dims={"team": "a"}, tags={}, now_ms=world.now_ms)
    attempt = f"a{next(numbers)}"
    nusd = int(from_usd(dollars))
    held = await ledger.reserve(attempt_id=attempt, amount_nusd=nusd, buckets=buckets)
    assert isinstance(held, Reservation)
    record = {"attempt_id": attempt, "at_ms": world.now_ms, "charge_nusd": nusd, "team": "a"} | more
    await ledger.settle(held, charge_nusd=nusd, record=msgspec.json.encode(record))


async def look(alerts: Alerts) -> None:
    await LOOKS[alerts]()


async def test_what_a_process_did_not_live_to_deliver_is_delivered_by_the_next(world: World) -> None:
    """A crash between the mark and the message must not silence it; the id says that it may be the second time."""
    world.budgets(Budget(name="all", limit_nusd=int(from_usd(100)), window="month"))
    ledger = await world.ledger()
    await charge(world, ledger, 60)
    first = await world.alerts(ledger)
    world.refuse = True
    await look(first)
    await first.close()
    world.refuse = False
    second = await world.alerts(ledger, owner="two")
    await look(second)
    assert world.got == []
    # After so long, whoever was to deliver it is not there any more.
    world.now_ms += 10 * 60_000
    await look(second)
    await world.until(1)
    assert (world.got[0].kind, world.got[0].fields["threshold"], world.got[0].at_ms) == ("budget_threshold", 0.5, START)
    world.now_ms += 10 * 60_000
    await look(second)
    assert len(world.got) == 1


async def test_only_one_replica_looks_at_budgets_and_another_goes_on(world: World) -> None:
    """All of them would read the whole log."""
    world.budgets(Budget(name="all", limit_nusd=int(from_usd(100)), window="month"))
    ledger = await world.ledger()
    one, two = await world.alerts(ledger), await world.alerts(ledger, owner="two")
    await look(one)
    await look(two)
    assert (one.leads, two.leads) == (True, False)
    await charge(world, ledger, 60)
    await look(two)
    assert world.got == []
    world.now_ms += 40_000
    await look(two)
    await world.until(1)
    await look(one)
    assert (one.leads, two.leads) == (False, True)
    assert world.kinds() == ["budget_threshold"]


async def test_an_unusual_hour_is_told_from_the_log(world: World) -> None:
    """Five quiet weeks; then, in one hour, ten times as much, for the team and for all."""
    world.budgets()
    ledger = await world.ledger()
    for week in range(5, 0, -1):
        world.now_ms = START - week * WEEK_MS + 60_000
        await charge(world, ledger, 5)
    alerts = await world.alerts(ledger)
    world.now_ms = START + 60_000
    await charge(world, ledger, 7)
    await look(alerts)
    assert world.got == []
    world.now_ms = START + 40 * 60_000
    await charge(world, ledger, 53)
    await look(alerts)
    await world.until(2)
    assert sorted((event.kind, event.fields["team"]) for event in world.got) == [("spend_anomaly", ""), ("spend_anomaly", "a")]
    # Whoever leads next knows what the log said, and what was told.
    world.now_ms += 60_000
    successor = await world.alerts(ledger, owner="two")
    await look(successor)
    assert successor.leads
    assert len(world.got) == 2
    await charge(world, ledger, 1)
    world.now_ms += 60_000
    await look(successor)
    assert len(world.got) == 2


async def test_a_budget_that_will_not_last_is_told_from_the_log(world: World) -> None:
    """60 USD an hour; 300 of 500 are spent after five hours: the rest lasts for about three and a half."""
    world.budgets(Budget(name="all", limit_nusd=int(from_usd(500)), window="day", alert_at=()))
    ledger = await world.ledger()
    for step in range(200):
        world.now_ms = START + step * 90_000
        await charge(world, ledger, 1.5)
    alerts = await world.alerts(ledger)
    for _ in range(2):
        await look(alerts)
        world.now_ms += 40_000
    await world.until(1)
    assert world.kinds() == ["budget_forecast"]
    assert world.got[0].fields["exhausted_at_ms"] == pytest.approx(START + 8.3 * HOUR_MS, abs=HOUR_MS)


async def test_an_event_from_elsewhere_is_told_once_however_often_it_is_said(world: World) -> None:
    """A file that stays wrong is looked at every few seconds, by every worker."""
    world.budgets()
    ledger = await world.ledger()
    one, two = await world.alerts(ledger), await world.alerts(ledger, owner="two")
    one.start()
    two.start()
    for _ in range(3):
        emit(config_rejected("router.yaml", "router.yaml:1:1: x"))
    await world.until(1)
    await one.close()
    await two.close()
    assert world.kinds() == ["config_rejected"]
    emit(config_rejected("router.yaml", "router.yaml:1:1: y"))
    assert world.kinds() == ["config_rejected"]


async def test_what_is_booked_at_an_assumed_price_is_told_until_it_has_one(world: World) -> None:
    """Its charges are guesses."""
    world.budgets()
    deployment = world.snapshot.deployments["p/m"]
    price = Price(rates=Rates(input=1, output=1), source="assumed")
    world.snapshot = replace(world.snapshot, deployments={"p/m": replace(deployment, price=price)})
    ledger = await world.ledger()
    await charge(world, ledger, 0.01, deployment="p/m", price_source="assumed")
    await charge(world, ledger, 0.01, deployment="p/gone", price_source="assumed")
    alerts = await world.alerts(ledger)
    await look(alerts)
    await world.until(1)
    assert [(event.kind, event.about) for event in world.got] == [("unpriced_model", "p/m")]


async def test_an_event_that_nobody_wants_is_not_kept_for_anybody(world: World) -> None:
    """It would be sent again and again to nobody."""
    world.budgets(Budget(name="all", limit_nusd=int(from_usd(100)), window="month"))
    picky = tuple(replace(receiver, events=frozenset({"ledger_drift"})) for receiver in world.snapshot.receivers)
    world.snapshot = replace(world.snapshot, receivers=picky)
    ledger = await world.ledger()
    await charge(world, ledger, 60)
    alerts = await world.alerts(ledger)
    await look(alerts)
    await look(alerts)
    assert [mark.event for mark in (await ledger.alert_store().marks()).values()] == [None]
    assert world.got == []
