"""What is held beforehand pays for calls while the ledger is away; a limit is never exceeded by it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.adapters.sqlite.ledger import SqliteLedger
from router.domain.advances import WhenDown, cover_of, sizes
from router.domain.budgets import NEVER_MS, BucketSet, BucketState, Budget, Refusal, Reservation
from router.domain.records import SpendRecord
from router.errors import StoreUnavailable
from router.escrow import IDLE_ROUNDS, Escrow
from router.metrics import Metrics
from router.metrics_ledger import MeteredStore
from router.outbox import Outbox
from router.snapshot import ServerSettings, Snapshot
from tests.contract.stores import bucket, buckets, counters, ids, rolling_bucket
from tests.unit.test_outbox import until

RECORD = b'{"attempt_id":"a","request_id":"r","at_ms":1}'


class Leaving(SqliteLedger):
    """A ledger that can be away."""

    away = False

    def _submit(self, method: Any, attempt_id: str, *args: Any) -> Any:
        if self.away:
            raise StoreUnavailable("away")
        return super()._submit(method, attempt_id, *args)


class World:
    """A ledger, an escrow over it, and an outbox."""

    def __init__(self, folder: Path, mode: WhenDown = "lease", **modes: WhenDown) -> None:
        self.folder = folder
        self.now = 0.0
        self.now_ms = 1_000
        self.metrics = Metrics()
        self.states: list[BucketState] = []
        self.ledger = Leaving(str(folder / "ledger.sqlite"), clock_ms=lambda: self.now_ms)
        self.configure(mode, **modes)

    def configure(self, mode: WhenDown, **modes: WhenDown) -> None:
        server = ServerSettings(when_store_is_down=mode, lease_ppm=200_000, open_up_to_nusd=150)
        known = {"company": mode, "team": mode} | modes
        budgets = tuple(Budget(name=name, limit_nusd=1000, window="lifetime", when_down=how) for name, how in known.items())
        self.snapshot = Snapshot(version="1", source="t", server=server, providers={}, deployments={}, routes={}, budgets=budgets)

    async def start(self) -> None:
        self.escrow = Escrow(
            self.ledger,
            snapshot=self.snapshot,
            replica="one",
            states=lambda: self.states,
            metrics=self.metrics,
            clock=lambda: self.now,
            clock_ms=lambda: self.now_ms,
        )
        self.outbox = await self.make_outbox()
        self.escrow.attach(self.outbox)

    async def make_outbox(self) -> Outbox:
        made = Outbox(
            str(self.folder / "outbox.log"), MeteredStore(self.escrow, self.metrics, clock=time.monotonic), first_pause_seconds=0.001
        )
        await made.start()
        return made

    async def reserve(self, attempt_id: str, nusd: int, where: BucketSet) -> Reservation:
        answer = await self.escrow.reserve(attempt_id=attempt_id, amount_nusd=nusd, buckets=where)
        assert isinstance(answer, Reservation), answer
        return answer

    async def advanced(self, where: BucketSet, nusd: int = 10) -> None:
        """A call comes, and an advance is fetched for the next ones."""
        held = await self.reserve(next(ids), nusd, where)
        await self.escrow.void(held)
        await self.escrow.refresh()

    async def delivered(self) -> None:
        await until(lambda: self.outbox.depth == 0)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.ledger.open(replica_id="one", lease_seconds=20)
    await made.start()
    yield made
    await made.outbox.close()
    await made.ledger.close()


async def company(world: World) -> tuple[int, int, int]:
    assert await world.ledger.verify() == []
    return (await counters(world.ledger))["company"]


async def test_calls_take_from_the_advance_and_leave_what_they_do_not_need(world: World) -> None:
    """A fifth of 1000 is there for them; after it, nothing."""
    where = buckets(bucket())
    await world.advanced(where)
    assert await company(world) == (0, 200, 0)
    world.ledger.away = True
    first, second = await world.reserve("a", 150, where), await world.reserve("b", 50, where)
    with pytest.raises(StoreUnavailable, match="the advance of its budgets is used up"):
        await world.reserve("c", 1, where)
    await world.outbox.settle(first, charge_nusd=30, record=RECORD)
    third = await world.reserve("d", 120, where)
    await world.outbox.void(second)
    world.ledger.away = False
    await world.delivered()
    await world.outbox.settle(third, charge_nusd=120, record=RECORD)
    await world.escrow.refresh()
    await world.escrow.refresh()
    # A new advance is held, of what the state says is left; the old one is gone.
    assert await company(world) == (150, 200, 0)
    await world.escrow.close()
    assert await company(world) == (150, 0, 0)


async def test_a_stream_goes_on_over_both_ends_of_an_outage(world: World) -> None:
    """Held by the store, extended from the advance; held from the advance, extended by the store."""
    where = buckets(bucket())
    await world.advanced(where)
    before = await world.reserve("before", 100, where)
    world.ledger.away = True
    before_grown = await world.escrow.extend(before, by_nusd=60)
    alone = await world.reserve("alone", 60, where)
    grown = await world.escrow.extend(alone, by_nusd=20)
    assert isinstance(before_grown, Reservation)
    assert isinstance(grown, Reservation)
    with pytest.raises(StoreUnavailable):
        await world.escrow.extend(grown, by_nusd=61)
    world.ledger.away = False
    whole = await world.escrow.extend(grown, by_nusd=70)
    assert isinstance(whole, Reservation)
    assert (whole.amount_nusd, whole.lender) == (150, "")
    assert await company(world) == (0, 200 + 100 + 150, 0)
    await world.outbox.settle(before_grown, charge_nusd=155, record=RECORD)
    await world.outbox.settle(whole, charge_nusd=150, record=RECORD)
    await world.escrow.close()
    assert await company(world) == (305, 0, 0)


async def test_a_refusal_gives_the_own_advance_back_first(world: World) -> None:
    """No call is refused for money that only waits."""
    where = buckets(bucket())
    await world.advanced(where)
    assert (await world.reserve("large", 900, where)).amount_nusd == 900
    answer = await world.escrow.reserve(attempt_id="more", amount_nusd=101, buckets=where)
    assert isinstance(answer, Refusal)
    assert await company(world) == (0, 900, 0)


async def test_advances_follow_what_is_left_and_who_calls(world: World) -> None:
    """Who shares a budget shares its part; who does not come any more has none, nor has a window that is over."""
    first, second = buckets(bucket(), bucket("team", scope="team=a")), buckets(bucket(), bucket("team", scope="team=b"))
    await world.advanced(first)
    await world.advanced(second)
    assert await company(world) == (0, 200, 0)
    world.states = [
        BucketState(budget="company", scope="", window="all", limit_nusd=1000, spent_nusd=980, held_nusd=0, debt_nusd=0, ends_ms=NEVER_MS)
    ]
    await world.escrow.refresh()
    assert await company(world) == (0, 0, 0), "too little for a single call"
    world.states = []
    await world.escrow.refresh()
    assert await company(world) == (0, 200, 0)
    for _ in range(IDLE_ROUNDS + 1):
        await world.escrow.refresh()
    assert await company(world) == (0, 0, 0)
    ends = buckets(replace(bucket(window="2026"), ends_ms=5_000))
    world.now_ms = 4_000
    await world.advanced(ends)
    assert world.escrow.serves
    world.now_ms = 5_000
    await world.escrow.refresh()
    assert not world.escrow.serves


async def test_an_advance_that_may_have_been_swept_is_fetched_anew(world: World) -> None:
    """After half a lease without the store, others may have taken this process for dead."""
    where = buckets(bucket())
    await world.advanced(where)
    world.now += 19
    await world.escrow.refresh()
    assert await company(world) == (0, 200, 0)
    assert world.escrow._count == 2


async def test_what_was_not_booked_at_the_end_is_booked_before_its_advance_is_given_back(world: World) -> None:
    """The process ends while the store is away; the next one delivers in the right order, and nothing becomes debt."""
    where = buckets(bucket())
    await world.advanced(where)
    world.ledger.away = True
    held = await world.reserve("a", 100, where)
    await world.outbox.settle(held, charge_nusd=90, record=RECORD)
    await world.escrow.close()
    await world.outbox.close()
    world.ledger.away = False
    world.outbox = await world.make_outbox()
    await world.delivered()
    assert await company(world) == (90, 0, 0)


async def test_after_a_kill_only_advances_that_nobody_used_are_given_back(world: World) -> None:
    """What is under way when a process is killed is known to nobody: an advance that was used counts as spent, once it is swept."""
    used, idle = buckets(bucket()), buckets(bucket("team", scope="team=a"))
    await world.advanced(used)
    await world.advanced(idle)
    await world.outbox.settle(await world.reserve("b", 10, used), charge_nusd=10, record=RECORD)
    world.ledger.away = True
    await world.reserve("lost", 100, used)
    # Its file is emptied meanwhile, and what is parked in it stays.
    await world.outbox.void(Reservation(attempt_id="x", amount_nusd=1, buckets=used))
    world.ledger.away = False
    await world.delivered()
    await world.outbox.close()
    world.outbox = await world.make_outbox()
    await world.delivered()
    assert await counters(world.ledger) == {"company": (10, 200, 0), "team/team=a/all": (0, 0, 0)}


@pytest.mark.parametrize(
    ("modes", "expected"),
    [
        ({"company": "open"}, "open"),
        ({"company": "open", "team": "lease"}, "lease"),
        ({"company": "lease", "team": "closed"}, "closed"),
        ({"company": "lease", "calls": "lease"}, "closed"),
        ({"company": "open", "calls": "open"}, "open"),
        ({"trial": "closed"}, "free"),
    ],
)
def test_the_strictest_budget_decides(modes: dict[str, str], expected: str) -> None:
    """There are no advances in requests; a budget on trial, a soft one and a rate limit decide nothing."""
    members = {
        "company": bucket(),
        "team": rolling_bucket("team"),
        "calls": bucket("calls", unit="requests"),
        "trial": bucket("trial", shadow=True),
    }
    limit = bucket("team:search:rpm", unit="requests")
    cover = cover_of([*(members[name] for name in modes), limit, bucket("soft", hard=False)], modes | {"soft": "closed"}, "lease")
    assert cover.mode == expected
    assert all(b.unit == "usd" for b in cover.buckets.buckets)


def test_calls_under_no_hard_budget_are_as_the_server_says() -> None:
    """Nothing bounds them, so nothing is to be set aside."""
    assert cover_of([], {}, "closed").mode == "closed"
    assert cover_of([], {}, "lease").mode == "free"
    assert sizes([cover_of([], {}, "lease")], [], share_ppm=1) == {"": 0}


async def test_open_lets_through_what_the_cap_covers(tmp_path: Path) -> None:
    """The cap counts what calls cost, of those that are not booked yet."""
    world = World(tmp_path, "open")
    await world.ledger.open(replica_id="one", lease_seconds=20)
    await world.start()
    where, free = buckets(bucket()), buckets()
    assert world.escrow.serves
    world.ledger.away = True
    first = await world.reserve("a", 100, where)
    with pytest.raises(StoreUnavailable, match=r"server\.open_up_to is reached"):
        await world.reserve("b", 51, where)
    grown = await world.escrow.extend(first, by_nusd=50)
    assert isinstance(grown, Reservation)
    await world.outbox.settle(grown, charge_nusd=40, record=RECORD)
    second = await world.reserve("c", 110, where)
    assert (await world.reserve("d", 10_000, free)).lender == ""
    await world.outbox.void(second)
    world.ledger.away = False
    await world.delivered()
    assert await company(world) == (40, 0, 40)
    world.configure("closed")
    world.escrow.configure(world.snapshot)
    world.ledger.away = True
    with pytest.raises(StoreUnavailable, match=r"^away$"):
        await world.reserve("e", 1, buckets(bucket()))
    await world.outbox.close()
    await world.ledger.close()


async def test_a_call_that_was_let_through_is_booked_even_if_the_process_is_killed(tmp_path: Path) -> None:
    """Nothing in the store knows of it: it is on disk before it is sent, and whoever takes over charges its hold."""
    world = World(tmp_path, "open")
    await world.ledger.open(replica_id="one", lease_seconds=20)
    await world.start()
    where = buckets(bucket())
    world.ledger.away = True
    await world.escrow.reserve(attempt_id="killed", amount_nusd=30, buckets=where, note=b'{"request_id":"r1","route":"auto"}')
    grown = await world.escrow.extend(await world.reserve("grown", 10, where), by_nusd=5)
    assert isinstance(grown, Reservation)
    kept, given_back = await world.reserve("kept", 20, where), await world.reserve("back", 20, where)
    await world.outbox.settle(kept, charge_nusd=7, record=b'{"attempt_id":"kept","request_id":"r2","at_ms":1}')
    await world.outbox.void(given_back)
    # As after `kill -9`: nothing more is written, and another process has the file.
    await world.outbox.close()
    world.ledger.away = False
    world.outbox = await world.make_outbox()
    await world.delivered()
    assert await company(world) == (30 + 15 + 7, 0, 30 + 15 + 7)
    records = [msgspec.json.decode(line, type=SpendRecord) async for line in world.ledger.records(since_ms=0, until_ms=10**13)]
    found = {each.attempt_id: (each.request_id, each.route, each.outcome, each.evidence, each.charge_nusd) for each in records}
    assert found["killed"] == ("r1", "auto", "swept", "estimated", 30)
    assert found["grown"][2:] == ("swept", "estimated", 15)
    assert found["kept"][2] == "ok"
    assert "back" not in found
    await world.outbox.close()
    await world.ledger.close()


async def test_an_intent_ends_when_the_store_has_the_truth(tmp_path: Path) -> None:
    """Whoever takes the file over must not charge the hold of a call that was booked."""
    world = World(tmp_path, "open")
    await world.ledger.open(replica_id="one", lease_seconds=20)
    await world.start()
    world.ledger.away = True
    held, given_back = await world.reserve("a", 30, buckets(bucket())), await world.reserve("b", 30, buckets(bucket()))
    world.ledger.away = False
    await world.outbox.settle(held, charge_nusd=3, record=RECORD)
    await world.outbox.void(given_back)
    await world.outbox.close()
    world.outbox = await world.make_outbox()
    assert world.outbox.depth == 0
    assert await company(world) == (3, 0, 3)
    await world.outbox.close()
    await world.ledger.close()
