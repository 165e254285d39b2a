"""What alerts keep in a store: told once over all replicas, one of them leads, the log comes once."""

from __future__ import annotations

import asyncio

from router.alerts.ports import Mark
from router.ports import Ledger
from tests.contract.stores import SqliteStore, Store, buckets, held


async def test_of_all_replicas_one_may_tell(store: Store) -> None:
    """Two messages about one crossing teach people to ignore both."""
    stores = [(await store.replica(name)).alert_store() for name in ("a", "b", "c")]
    answers = await asyncio.gather(*(each.mark("budget|x", keep_ms=60_000, event=b"{}") for each in stores for _ in range(3)))
    assert sorted(answers) == [False] * 8 + [True]


async def test_a_mark_ends_and_can_be_forgotten(store: Store, ledger: Ledger) -> None:
    """A new window, and a limit that was raised, are told anew."""
    alerts = ledger.alert_store()
    assert await alerts.mark("short", keep_ms=0, event=b"")
    assert await alerts.mark("short", keep_ms=60_000, event=b"")
    assert not await alerts.mark("short", keep_ms=60_000, event=b"")
    await alerts.clear(["short", "never"])
    assert await alerts.mark("short", keep_ms=60_000, event=b"")


async def test_what_was_not_delivered_is_kept_for_the_next(store: Store, ledger: Ledger) -> None:
    """A process that dies between the mark and the message must not make it the last that is heard of it."""
    await ledger.alert_store().mark("one", keep_ms=60_000, event=b"the event")
    await ledger.alert_store().mark("over", keep_ms=0, event=b"late")
    await ledger.alert_store().mark("silent", keep_ms=60_000, event=b"")
    other = (await store.replica("other")).alert_store()
    marks = await other.marks()
    assert {name: mark.event for name, mark in marks.items()} == {"one": b"the event", "over": b"late", "silent": None}
    now = await store.now_ms()
    assert now < marks["one"].until_ms <= now + 60_000
    await other.done("one")
    await other.done("over")
    assert {name: mark.event for name, mark in (await other.marks()).items()} == {"one": None, "silent": None}
    assert isinstance(marks["one"], Mark)


async def test_one_replica_leads_until_it_stops_to_renew(store: Store) -> None:
    """The log must not be read by all, and by somebody always."""
    one, two = (await store.replica("one")).alert_store(), (await store.replica("two")).alert_store()
    before = await store.now_ms()
    now = await one.lead("one", lease_ms=60_000)
    assert now is not None
    assert abs(now - before) < 10_000
    assert await two.lead("two", lease_ms=60_000) is None
    assert await one.lead("one", lease_ms=200_000) is not None
    assert await two.lead("two", lease_ms=60_000) is None


async def test_a_lease_that_ran_out_is_taken(store: Store) -> None:
    """The leader was killed."""
    one, two = (await store.replica("one")).alert_store(), (await store.replica("two")).alert_store()
    assert await one.lead("one", lease_ms=20) is not None
    deadline = asyncio.get_running_loop().time() + 10
    while await two.lead("two", lease_ms=60_000) is None:
        assert asyncio.get_running_loop().time() < deadline
        if isinstance(store, SqliteStore):
            store.clock_ms += 5
        await asyncio.sleep(0.005)
    assert await one.lead("one", lease_ms=60_000) is None


async def test_a_lease_can_be_given_up_by_its_owner_only(store: Store) -> None:
    """Whoever starts after a clean end must not wait."""
    one, two = (await store.replica("one")).alert_store(), (await store.replica("two")).alert_store()
    assert await one.lead("one", lease_ms=60_000) is not None
    await two.lead("two", lease_ms=0)
    assert await two.lead("two", lease_ms=60_000) is None
    await one.lead("one", lease_ms=0)
    assert await two.lead("two", lease_ms=60_000) is not None


async def test_the_log_comes_once_in_order_and_from_where_one_left_off(store: Store, ledger: Ledger) -> None:
    """A record that is counted twice is an anomaly that was none."""
    alerts = ledger.alert_store()
    nothing = buckets()

    async def settle(number: int) -> None:
        reservation = await held(ledger, 1, nothing, attempt_id=f"log-{number}")
        await ledger.settle(reservation, charge_nusd=number, record=b'{"attempt_id":"log-%d","at_ms":1,"buckets":[]}' % number)

    for number in range(3):
        await settle(number)
    cursor, records = await alerts.page("", since_ms=0)
    assert [b"log-%d" % number in record for number, record in enumerate(records)] == [True] * 3
    assert await alerts.page(cursor, since_ms=0) == (cursor, [])
    await settle(3)
    again, records = await (await store.replica("other")).alert_store().page(cursor, since_ms=0)
    assert len(records) == 1
    assert b"log-3" in records[0]
    assert again != cursor
    assert (await alerts.page("", since_ms=await store.now_ms() + 60_000))[1] == []


async def test_statistics_are_kept(store: Store, ledger: Ledger) -> None:
    """Weeks of hours must not be read again after a restart."""
    alerts = ledger.alert_store()
    assert await alerts.load() == b""
    await alerts.save(b"\x00state")
    await alerts.save(b"\x00newer")
    assert await (await store.replica("other")).alert_store().load() == b"\x00newer"
