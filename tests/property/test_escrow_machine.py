"""Whatever calls come and whenever the store goes and comes back: no limit is exceeded, and every charge is booked once."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from router.domain.budgets import Reservation
from router.errors import StoreUnavailable
from tests.contract.stores import bucket, buckets, counters, rolling_bucket
from tests.unit.test_escrow import World

LIMIT = 1000
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), st.integers(0, 1), st.integers(0, 120)),
        st.tuples(st.just("extend"), st.integers(0, 9), st.integers(0, 80)),
        st.tuples(st.just("settle"), st.integers(0, 9), st.integers(0, 100)),
        st.tuples(st.just("void"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("others"), st.just(0), st.integers(0, 200)),
        st.tuples(st.just("refresh"), st.just(0), st.just(0)),
        st.tuples(st.just("away"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("sweep"), st.just(0), st.just(0)),
        st.tuples(st.just("reserve"), st.integers(0, 1), st.integers(0, 60)),
    ),
    min_size=10,
    max_size=40,
)
FIRST = [("reserve", 0, 20), ("reserve", 1, 20), ("refresh", 0, 0), ("away", 1, 0)]
"""So that there are advances, and a reason to use them."""


class Run:
    """One world, and what is true of it."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        self.where = (
            buckets(bucket(limit=LIMIT), bucket("team", scope="team=a", limit=LIMIT)),
            buckets(bucket(limit=LIMIT), rolling_bucket("team", limit=LIMIT)),
        )
        self.under_way: list[Reservation] = []
        self.charged = 0
        self.count = 0

    async def step(self, what: str, which: int, amount: int) -> None:
        world, count = self.world, len(self.under_way)
        self.count += 1
        try:
            if what in ("reserve", "others"):
                store = world.escrow if what == "reserve" else world.ledger
                answer = await store.reserve(attempt_id=f"{what}-{self.count}", amount_nusd=amount, buckets=self.where[which])
                if isinstance(answer, Reservation):
                    self.under_way.append(answer)
            elif what == "extend" and count:
                grown = await world.escrow.extend(self.under_way[which % count], by_nusd=amount)
                if isinstance(grown, Reservation):
                    self.under_way[which % count] = grown
            elif what in ("settle", "void") and count:
                await self.end(self.under_way.pop(which % count), what, amount)
            elif what == "refresh":
                world.now += 5
                await world.escrow.refresh()
            elif what == "sweep":
                await self.swept()
        except StoreUnavailable:
            assert world.ledger.away
        if what == "away":
            world.ledger.away = bool(which)

    async def end(self, held: Reservation, what: str, share: int) -> None:
        if what == "void":
            await self.world.outbox.void(held)
            return
        charge = held.amount_nusd * share // 100
        self.charged += charge
        record = b'{"attempt_id":"%b","request_id":"r","at_ms":1,"charge_nusd":%d}' % (held.attempt_id.encode(), charge)
        await self.world.outbox.settle(held, charge_nusd=charge, record=record)

    async def swept(self) -> None:
        """Others take this process for dead, wrongly."""
        await self.world.ledger.release()
        self.world.now_ms += 10
        await self.world.ledger.sweep()
        await self.world.ledger.heartbeat({})

    async def look(self) -> None:
        found = await counters(self.world.ledger)
        for spent, held, debt in found.values():
            assert spent + held <= LIMIT
            assert debt == 0

    async def finish(self) -> None:
        self.world.ledger.away = False
        for held in self.under_way:
            await self.end(held, "settle", 50)
        await self.world.delivered()
        await self.world.escrow.close()
        await self.world.delivered()
        await self.look()
        assert await self.world.ledger.verify() == []
        found = await counters(self.world.ledger)
        assert found.get("company", (0, 0, 0)) == (self.charged, 0, 0)


async def run(steps: list[tuple[str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made = Run(Path(folder))
        await made.world.ledger.open(replica_id="one", lease_seconds=20)
        await made.world.start()
        try:
            for what, which, amount in [*FIRST, *steps]:
                await made.step(what, which, amount)
                await made.look()
            await made.finish()
        finally:
            await made.world.outbox.close()
            await made.world.ledger.close()


@settings(max_examples=30, deadline=None)
@given(steps=STEPS)
def test_no_outage_makes_a_budget_overspend(steps: list[tuple[str, int, int]]) -> None:
    """The promise of `when_store_is_down: lease`: overshoot 0, lost spend 0."""
    asyncio.run(run(steps))
