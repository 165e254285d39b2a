"""What every ledger promises, over SQLite, a faked and a real Redis."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from router.adapters.redis import reads
from router.adapters.sqlite import ledger as sqlite_ledger
from router.domain.budgets import Refusal, Reservation, WindowMoved
from router.domain.money import MAX_NUSD
from router.domain.records import SpendRecord
from router.ports import Drift, Ledger, StoredKey
from tests.contract.stores import HOUR_MS, SqliteStore, Store, bucket, buckets, counters, held, records

RECORD = b'{"attempt_id":"a","request_id":"r","at_ms":1,"charge_nusd":80,"hold_nusd":100}'


async def test_a_hold_counts_in_every_bucket_it_falls_under(ledger: Ledger) -> None:
    """A request spends every budget that covers it, in one step."""
    reserved = await held(ledger, 100, buckets(bucket(), bucket("team", scope="team=search", limit=400)))
    assert await counters(ledger) == {"company": (0, 100, 0), "team/team=search/all": (0, 100, 0)}
    assert (reserved.tightest.budget if reserved.tightest else None, reserved.tightest_left_nusd) == ("team", 300)


async def test_a_refusal_writes_nothing_and_names_the_fullest_bucket(ledger: Ledger) -> None:
    """All or none: a bucket that had room must not keep a hold that another bucket refused."""
    where = buckets(bucket(), bucket("team", limit=150), bucket("key", limit=120))
    await held(ledger, 100, where)
    answer = await ledger.reserve(attempt_id="second", amount_nusd=60, buckets=where)
    assert isinstance(answer, Refusal)
    assert (answer.bucket.budget, answer.limit_nusd, answer.spent_nusd, answer.held_nusd, answer.needed_nusd) == ("key", 120, 0, 100, 60)
    assert answer.left_nusd == 20
    assert await counters(ledger) == {"company": (0, 100, 0), "team": (0, 100, 0), "key": (0, 100, 0)}
    assert (await held(ledger, 20, where, attempt_id="second")).amount_nusd == 20


async def test_a_budget_can_be_held_to_its_last_nano_dollar(ledger: Ledger) -> None:
    """The limit is inclusive, and one more is refused."""
    where = buckets(bucket(limit=1000))
    assert (await held(ledger, 1000, where)).tightest_left_nusd == 0
    assert isinstance(await ledger.reserve(attempt_id="more", amount_nusd=1, buckets=where), Refusal)


async def test_concurrent_reserves_never_hold_more_than_the_limit(store: Store) -> None:
    """The point of the whole program: two hundred at once, from two replicas, and exactly what fits is admitted."""
    one, two = await store.replica("one"), await store.replica("two")
    where = [buckets(bucket(limit=50)), buckets(bucket(limit=50))]
    answers = await asyncio.gather(
        *[(one, two)[i % 2].reserve(attempt_id=f"race-{i}", amount_nusd=1, buckets=where[i % 2]) for i in range(200)]
    )
    assert sum(isinstance(a, Reservation) for a in answers) == 50
    assert await counters(one) == {"company": (0, 50, 0)}


async def test_a_soft_budget_counts_but_does_not_refuse(ledger: Ledger) -> None:
    """Soft budgets alert and steer."""
    reserved = await held(ledger, 500, buckets(bucket(limit=100, hard=False)))
    assert reserved.tightest is None
    assert reserved.tightest_left_nusd is None
    assert await counters(ledger) == {"company": (0, 500, 0)}


async def test_a_free_call_is_held_and_booked_even_if_the_budget_is_overdrawn(ledger: Ledger) -> None:
    """A model that costs nothing is where traffic goes when the money is gone."""
    where = buckets(bucket(limit=100))
    first = await held(ledger, 100, where)
    await ledger.settle(first, charge_nusd=150, record=RECORD)
    free = await held(ledger, 0, where)
    assert await ledger.settle(free, charge_nusd=0, record=RECORD)
    assert len(await records(ledger)) == 2


async def test_a_call_under_no_budget_is_booked_too(ledger: Ledger) -> None:
    """What is spent is known even where nothing limits it."""
    reserved = await held(ledger, 100, buckets())
    assert reserved.tightest is None
    assert await ledger.settle(reserved, charge_nusd=80, record=RECORD)
    assert len(await records(ledger)) == 1
    assert await ledger.verify() == []


async def test_a_settlement_replaces_the_hold_by_the_charge(ledger: Ledger) -> None:
    """What was set aside and not used is free again."""
    where = buckets(bucket(), bucket("team"))
    reserved = await held(ledger, 100, where)
    assert await ledger.settle(reserved, charge_nusd=80, record=RECORD)
    assert await counters(ledger) == {"company": (80, 0, 0), "team": (80, 0, 0)}


async def test_a_charge_above_its_hold_is_booked_in_full_as_debt_and_blocks_the_next(ledger: Ledger) -> None:
    """A provider's bill cannot be refused; what it exceeds the hold by is named."""
    where = buckets(bucket(limit=100))
    reserved = await held(ledger, 100, where)
    await ledger.settle(reserved, charge_nusd=130, record=RECORD)
    assert await counters(ledger) == {"company": (130, 0, 30)}
    answer = await ledger.reserve(attempt_id="next", amount_nusd=1, buckets=where)
    assert isinstance(answer, Refusal)
    assert answer.left_nusd == 0


async def test_a_void_gives_the_whole_hold_back_without_a_record(ledger: Ledger) -> None:
    """A call that never left cost nothing."""
    reserved = await held(ledger, 100, buckets(bucket()))
    assert await ledger.void(reserved)
    assert await counters(ledger) == {"company": (0, 0, 0)}
    assert await records(ledger) == []


async def test_every_call_that_is_delivered_twice_counts_once(ledger: Ledger) -> None:
    """A reply can be lost after the work was done; whoever repeats the call must not pay twice."""
    where = buckets(bucket())
    reserved = await held(ledger, 100, where, attempt_id="same")
    again = await held(ledger, 100, where, attempt_id="same")
    assert again.amount_nusd == 100
    await ledger.extend(reserved, by_nusd=50)
    await ledger.extend(reserved, by_nusd=50)
    assert await counters(ledger) == {"company": (0, 150, 0)}
    assert await ledger.settle(reserved, charge_nusd=120, record=RECORD)
    assert not await ledger.settle(reserved, charge_nusd=120, record=RECORD)
    assert not await ledger.void(reserved)
    assert (await held(ledger, 100, where, attempt_id="same")).amount_nusd == 0
    await ledger.extend(reserved, by_nusd=500)
    assert await counters(ledger) == {"company": (120, 0, 0)}
    assert len(await records(ledger)) == 1


async def test_a_voided_attempt_stays_void(ledger: Ledger) -> None:
    """A reserve that is overtaken by its own void must not hold money that nobody will settle."""
    where = buckets(bucket())
    ghost = Reservation(attempt_id="ghost", amount_nusd=100, buckets=where)
    assert not await ledger.void(ghost)
    assert (await held(ledger, 100, where, attempt_id="ghost")).amount_nusd == 0
    assert not await ledger.settle(ghost, charge_nusd=5, record=RECORD)
    assert {n: c for n, c in (await counters(ledger)).items() if any(c)} == {}


async def test_an_extension_holds_more_or_nothing(ledger: Ledger) -> None:
    """A stream goes on while there is money, and is cut cleanly where there is none."""
    where = buckets(bucket(limit=100))
    reserved = await held(ledger, 60, where)
    extended = await ledger.extend(reserved, by_nusd=30)
    assert isinstance(extended, Reservation)
    assert (extended.amount_nusd, extended.tightest_left_nusd) == (90, 10)
    refused = await ledger.extend(extended, by_nusd=11)
    assert isinstance(refused, Refusal)
    assert (refused.held_nusd, refused.needed_nusd, refused.left_nusd) == (90, 11, 10)
    await ledger.settle(extended, charge_nusd=90, record=RECORD)
    assert await counters(ledger) == {"company": (90, 0, 0)}


async def test_the_published_limit_decides_not_the_callers(ledger: Ledger) -> None:
    """A replica with an older configuration must not admit by its stale limit."""
    where = buckets(bucket(limit=1000))
    await ledger.publish_limits({"company": 50}, version="v2")
    answer = await ledger.reserve(attempt_id="stale", amount_nusd=60, buckets=where)
    assert isinstance(answer, Refusal)
    assert answer.limit_nusd == 50
    await ledger.publish_limits({"other": 50}, version="v3")
    assert (await held(ledger, 60, where)).tightest_left_nusd == 940


async def test_a_limit_below_what_is_spent_only_refuses(ledger: Ledger) -> None:
    """Limits change while traffic flows; what is held goes on."""
    where = buckets(bucket(limit=1000))
    reserved = await held(ledger, 100, where)
    await ledger.publish_limits({"company": 10}, version="v2")
    assert isinstance(await ledger.reserve(attempt_id="late", amount_nusd=1, buckets=where), Refusal)
    assert await ledger.settle(reserved, charge_nusd=100, record=RECORD)
    assert await counters(ledger) == {"company": (100, 0, 0)}


@pytest.mark.parametrize("shift", [-2, 1])
async def test_a_window_that_is_not_the_stores_current_one_is_answered_with_its_time(store: Store, shift: int) -> None:
    """The store's clock decides in which window money is spent; a caller whose clock is off builds its set anew."""
    ledger = await store.replica("one")
    now_ms = await store.now_ms()
    starts = now_ms + shift * HOUR_MS
    other = replace(bucket(window="2026-11-22T14"), starts_ms=starts, ends_ms=starts + HOUR_MS)
    answer = await ledger.reserve(attempt_id="moved", amount_nusd=1, buckets=buckets(bucket(), other))
    assert isinstance(answer, WindowMoved)
    assert abs(answer.now_ms - now_ms) < 60_000
    assert await counters(ledger) == {}


async def test_a_hold_is_settled_in_the_window_it_was_made_in(store: Store) -> None:
    """A call that begins at 23:59 spends yesterday's money, and never touches today's."""
    ledger = await store.replica("one")
    now_ms = await store.now_ms()
    today = buckets(replace(bucket(window="today"), starts_ms=now_ms - HOUR_MS, ends_ms=now_ms + HOUR_MS))
    tomorrow = buckets(replace(bucket(window="tomorrow"), starts_ms=now_ms - 1, ends_ms=now_ms + 24 * HOUR_MS))
    reserved = await held(ledger, 100, today)
    await held(ledger, 7, tomorrow)
    await ledger.extend(reserved, by_nusd=20)
    await ledger.settle(reserved, charge_nusd=110, record=RECORD)
    assert await counters(ledger) == {"company//today": (110, 0, 0), "company//tomorrow": (0, 7, 0)}


async def test_holds_of_a_dead_replica_become_charges_once(store: Store) -> None:
    """A call that went out may have cost all that was held although its process died; its last progress is a lower bound."""
    one, two = await store.replica("one"), await store.replica("two")
    where = buckets(bucket())
    known = await held(one, 100, where, note=b'{"request_id":"r1","route":"auto","team":"search"}')
    await held(one, 200, where)
    await held(two, 50, where)
    await one.heartbeat({known.attempt_id: 30})
    assert await two.sweep() == 0
    await store.crash("one")
    swept = await asyncio.gather(two.sweep(), two.sweep())
    assert sum(swept) == 2
    assert await counters(two) == {"company": (300, 50, 0)}
    lines = {r.attempt_id: r for r in (msgspec.json.decode(raw, type=SpendRecord) for raw in await records(two))}
    line = lines[known.attempt_id]
    assert (line.outcome, line.evidence, line.charge_nusd, line.hold_nusd, line.team) == ("swept", "estimated", 100, 100, "search")
    assert line.buckets == ["company||all"]
    assert await two.verify() == []


async def test_the_late_truth_corrects_a_sweep(store: Store) -> None:
    """A replica that only stalled settles what was charged in its name; the books show the difference."""
    one, two = await store.replica("one"), await store.replica("two")
    reserved = await held(one, 100, buckets(bucket()))
    await store.crash("one")
    assert await two.sweep() == 1
    assert await one.settle(reserved, charge_nusd=40, record=RECORD)
    assert not await one.settle(reserved, charge_nusd=40, record=RECORD)
    assert await counters(one) == {"company": (40, 0, 0)}
    lines = [msgspec.json.decode(raw, type=SpendRecord) for raw in await records(one)]
    assert [(r.outcome, r.charge_nusd) for r in lines] == [("swept", 100), ("corrected", -60)]
    assert await one.verify() == []


async def test_a_void_after_a_sweep_takes_the_charge_back(store: Store) -> None:
    """The call provably cost nothing, so the estimate was wrong."""
    one, two = await store.replica("one"), await store.replica("two")
    reserved = await held(one, 100, buckets(bucket()), note=b'{"route":"auto"}')
    await store.crash("one")
    await two.sweep()
    assert await one.void(reserved)
    assert await counters(one) == {"company": (0, 0, 0)}
    last = msgspec.json.decode((await records(one))[-1], type=SpendRecord)
    assert (last.outcome, last.charge_nusd, last.route) == ("corrected", -100, "auto")
    assert await one.verify() == []


async def test_a_charge_above_a_swept_estimate_is_debt(store: Store) -> None:
    """What the truth is above the hold that was charged was never held."""
    one, two = await store.replica("one"), await store.replica("two")
    reserved = await held(one, 100, buckets(bucket(limit=190)))
    await one.heartbeat({reserved.attempt_id: 10})
    await store.crash("one")
    await two.sweep()
    await held(two, 90, buckets(bucket(limit=190)))
    await one.settle(reserved, charge_nusd=130, record=RECORD)
    assert await counters(one) == {"company": (130, 90, 30)}


async def test_a_lower_truth_pays_back_the_debt_of_a_sweep(store: Store) -> None:
    """Debt is what was charged above what was held; if it was not charged after all, it is no debt."""
    one, two = await store.replica("one"), await store.replica("two")
    reserved = await held(one, 20, buckets(bucket()))
    await one.heartbeat({reserved.attempt_id: 50})
    await store.crash("one")
    await two.sweep()
    assert await counters(one) == {"company": (50, 0, 30)}
    await one.settle(reserved, charge_nusd=40, record=RECORD)
    assert await counters(one) == {"company": (40, 0, 20)}
    assert await one.verify() == []


async def test_a_stream_that_outlived_its_lease_can_be_extended(store: Store) -> None:
    """Its hold was charged by the sweep; what it needs beyond that is held anew."""
    one, two = await store.replica("one"), await store.replica("two")
    reserved = await held(one, 100, buckets(bucket()))
    await store.crash("one")
    await two.sweep()
    extended = await one.extend(reserved, by_nusd=50)
    assert isinstance(extended, Reservation)
    assert extended.amount_nusd == 150
    assert await counters(one) == {"company": (100, 50, 0)}
    assert await one.settle(extended, charge_nusd=120, record=RECORD)
    assert await counters(one) == {"company": (120, 0, 0)}
    assert await one.verify() == []


async def test_a_reserve_renews_a_lapsed_lease(store: Store) -> None:
    """A replica that reserves is alive; nobody may sweep it."""
    one, two = await store.replica("one"), await store.replica("two")
    await store.crash("one")
    await held(one, 100, buckets(bucket()))
    assert await two.sweep() == 0


async def test_a_released_lease_leaves_open_holds_to_others(store: Store) -> None:
    """A clean end must not wait for the lease to run out."""
    one, two = await store.replica("one"), await store.replica("two")
    await held(one, 100, buckets(bucket()))
    await one.release()
    assert await one.sweep() + await two.sweep() == 1


async def test_a_settlement_without_a_hold_is_booked_as_debt_and_flagged(ledger: Ledger) -> None:
    """The store lost the hold, not the money: the provider will bill it."""
    where = buckets(bucket(limit=100))
    lost = Reservation(attempt_id="lost", amount_nusd=100, buckets=where)
    assert await ledger.settle(lost, charge_nusd=80, record=RECORD)
    assert not await ledger.settle(lost, charge_nusd=80, record=RECORD)
    assert await counters(ledger) == {"company": (80, 0, 80)}
    line = msgspec.json.decode((await records(ledger))[0], type=SpendRecord)
    assert (line.outcome, line.charge_nusd, line.doubt) == ("ok", 80, "hold_lost")
    assert await ledger.verify() == []


async def test_an_extension_of_a_lost_hold_holds_all_of_it(ledger: Ledger) -> None:
    """The store lost the hold: the stream goes on only if its whole amount fits again."""
    where = buckets(bucket(limit=100))
    lost = Reservation(attempt_id="lost-stream", amount_nusd=60, buckets=where)
    extended = await ledger.extend(lost, by_nusd=20)
    assert isinstance(extended, Reservation)
    assert await counters(ledger) == {"company": (0, 80, 0)}


async def test_a_cancelled_reserve_leaves_no_hold(ledger: Ledger) -> None:
    """A client that hangs up while its money is being set aside must not lock it up."""
    where = buckets(bucket())
    task = asyncio.create_task(ledger.reserve(attempt_id="cancelled", amount_nusd=100, buckets=where))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while any(any(c) for c in (await counters(ledger)).values()):
        await ledger.ping()
    assert await ledger.verify() == []


@pytest.mark.parametrize("amount", [-1, MAX_NUSD + 1, 1.5, float("nan"), True, "1"])
async def test_amounts_that_are_no_amounts_are_rejected_at_the_edge(ledger: Ledger, amount: Any) -> None:
    """A counter that once holds a NaN or a fraction admits everything or nothing for ever."""
    where = buckets(bucket())
    with pytest.raises(ValueError, match="not an amount"):
        await ledger.reserve(attempt_id="bad", amount_nusd=amount, buckets=where)
    reserved = await held(ledger, 1, where)
    with pytest.raises(ValueError, match="not an amount"):
        await ledger.extend(reserved, by_nusd=amount)
    with pytest.raises(ValueError, match="not an amount"):
        await ledger.settle(reserved, charge_nusd=amount, record=RECORD)


@pytest.mark.parametrize("name", ["", "a b", "x\n", "é", "a" * 129])
async def test_attempt_ids_that_cannot_be_a_key_are_rejected(ledger: Ledger, name: str) -> None:
    """An id becomes part of a key in the store."""
    with pytest.raises(ValueError, match="not an attempt id"):
        await ledger.reserve(attempt_id=name, amount_nusd=1, buckets=buckets(bucket()))


async def test_large_amounts_stay_exact(ledger: Ledger) -> None:
    """Lua's numbers print as 1e+15 if one is careless."""
    big = 4_503_599_627_370_495
    where = buckets(bucket(limit=MAX_NUSD))
    reserved = await held(ledger, big, where)
    assert reserved.tightest_left_nusd == MAX_NUSD - big
    await ledger.settle(reserved, charge_nusd=big - 1, record=RECORD)
    assert await counters(ledger) == {"company": (big - 1, 0, 0)}
    assert await ledger.verify() == []


async def test_records_come_in_the_order_written_within_the_times_asked_for(store: Store) -> None:
    """The log is the books: counters are derived from it."""
    ledger = await store.replica("one")
    for i in range(3):
        reserved = await held(ledger, 10, buckets(bucket()))
        await ledger.settle(reserved, charge_nusd=i, record=b'{"attempt_id":"%d","request_id":"r","at_ms":1}' % i)
    got = [msgspec.json.decode(r, type=SpendRecord) for r in await records(ledger)]
    assert [(r.attempt_id, r.buckets) for r in got] == [(str(i), ["company||all"]) for i in range(3)]
    now_ms = await store.now_ms()
    assert [r async for r in ledger.records(since_ms=now_ms + HOUR_MS)] == []
    assert [r async for r in ledger.records(until_ms=now_ms - HOUR_MS)] == []


@pytest.mark.parametrize("count", [40, 47])
async def test_more_records_than_a_page_are_all_read(ledger: Ledger, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paging must neither drop nor repeat a line at its seams."""
    for module in (reads, sqlite_ledger):
        monkeypatch.setattr(module, "PAGE", 20)
    where = buckets(bucket(limit=MAX_NUSD))

    async def one(i: int) -> None:
        reserved = await held(ledger, 1, where, attempt_id=f"page-{i}")
        await ledger.settle(reserved, charge_nusd=1, record=b'{"attempt_id":"%d"}' % i)

    await asyncio.gather(*[one(i) for i in range(count)])
    seen = [msgspec.json.decode(r)["attempt_id"] for r in await records(ledger)]
    assert sorted(map(int, seen)) == list(range(count))
    assert await ledger.verify() == []


async def test_bucket_states_show_limits_and_leave_out_what_is_over(store: Store) -> None:
    """What a person sees: where each budget stands now."""
    ledger = await store.replica("one")
    now_ms = await store.now_ms()
    where = buckets(bucket(), replace(bucket("a|b%", window="now"), starts_ms=now_ms - HOUR_MS, ends_ms=now_ms + HOUR_MS))
    await ledger.publish_limits({"company": 77, "a|b%": 88}, version="v")
    await held(ledger, 5, where)
    states = await ledger.bucket_states()
    assert [(s.budget, s.limit_nusd, s.held_nusd, s.ends_ms) for s in states if s.budget != "company"] == [
        ("a|b%", 88, 5, now_ms + HOUR_MS)
    ]
    assert [s.limit_nusd for s in await ledger.bucket_states(budget="company")] == [77]
    assert await ledger.bucket_states(budget="unknown") == []


async def test_the_pepper_is_made_once_for_all_replicas(store: Store) -> None:
    """Two peppers would make every key of one replica unknown to the other."""
    one, two = await store.replica("one"), await store.replica("two")
    peppers = await asyncio.gather(one.pepper(), two.pepper(), one.pepper())
    assert len(set(peppers)) == 1
    assert len(peppers[0]) == 32


async def test_keys_are_kept_replaced_and_listed(ledger: Ledger) -> None:
    """A revoked key stays listed, so that one can see that it was revoked."""
    key = StoredKey(key_id="abcd1234", secret_hmac="00", name="ci", models=["auto"], tags={"kind": "agent"}, created_ms=1)
    await ledger.put_key(key)
    await ledger.put_key(StoredKey(key_id="aaaa1234", secret_hmac="01"))
    assert await ledger.get_key("abcd1234") == key
    assert await ledger.get_key("unknown1") is None
    key.revoked_ms = 5
    await ledger.put_key(key)
    assert [(k.key_id, k.revoked_ms) for k in await ledger.list_keys()] == [("aaaa1234", None), ("abcd1234", 5)]


async def test_ping_answers_while_the_store_serves(ledger: Ledger) -> None:
    """Readiness asks this."""
    await ledger.ping()


async def test_an_audit_finds_what_was_changed_past_the_ledger(store: Store) -> None:
    """A service that runs for months must notice by itself that its counters are not its log."""
    ledger = await store.replica("one")
    where = buckets(bucket(), bucket("team"))
    await ledger.settle(await held(ledger, 100, where), charge_nusd=80, record=RECORD)
    await held(ledger, 50, where)
    assert await ledger.audit() == []
    # Also after what it has read already.
    await ledger.settle(await held(ledger, 10, where), charge_nusd=30, record=RECORD)
    assert await ledger.audit() == []
    await store.tamper("team||all", -7)
    assert await ledger.audit() == [Drift("team||all", 103, 110, "spent")] == list(await ledger.verify())


async def test_only_one_replica_audits(store: Store) -> None:
    """Every one of them would read the whole log."""
    one, two = await store.replica("one"), await store.replica("two")
    assert await one.audit() == []
    assert await two.audit() is None
    assert await one.audit() == []


async def test_a_trimmed_log_still_verifies(store: Store) -> None:
    """What old entries added up to is kept; budgets and the sums of lifetime windows never change."""
    ledger, other = await store.replica("one"), await store.replica("two")
    where = buckets(bucket(), bucket("team"))
    assert await ledger.audit() == []
    for charge in (80, 130):
        await ledger.settle(await held(ledger, 100, where), charge_nusd=charge, record=RECORD)
    before = await counters(ledger)
    assert await ledger.audit() == []
    now_ms = await store.now_ms()
    assert await ledger.trim(before_ms=now_ms - HOUR_MS) == 0
    trimmed = await ledger.trim(before_ms=now_ms + HOUR_MS)
    assert trimmed + len(await records(ledger)) == 2
    assert trimmed >= 1
    await ledger.settle(await held(ledger, 100, where), charge_nusd=5, record=RECORD)
    assert len(await records(ledger)) == 3 - trimmed
    assert before == {"company": (210, 0, 30), "team": (210, 0, 30)}
    assert await counters(ledger) == {"company": (215, 0, 30), "team": (215, 0, 30)}
    # One that has read what was trimmed, and one that has not.
    assert await ledger.audit() == list(await other.verify()) == []
    await store.tamper("company||all", 1)
    assert await other.verify() == [Drift("company||all", 216, 215, "spent")]


async def test_a_clock_that_goes_back_does_not_keep_holds_for_longer(store: Store) -> None:
    """The lease of a dead replica then ends far in the future, and its holds would stay as long."""
    one, two = await store.replica("one"), await store.replica("two", lease_seconds=0.05)
    await held(one, 100, buckets(bucket()))
    await store.clock_went_back("one")
    async with asyncio.timeout(10):
        while not await two.sweep():
            if isinstance(store, SqliteStore):
                store.clock_ms += 10
            await asyncio.sleep(0.01)
    assert await counters(two) == {"company": (100, 0, 0)}
