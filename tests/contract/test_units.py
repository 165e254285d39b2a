"""What every ledger promises of budgets that do not count plain USD in a window of the calendar."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from router.domain.budgets import Bucket, BucketSet, Refusal, Reservation, Unit
from router.domain.windows import bucket_id
from router.ports import Drift, Ledger
from tests.contract.stores import HOUR_MS, SLOT_MS, Store, bucket, buckets, counters, held, records, rolling_bucket

RECORD = b'{"attempt_id":"a","request_id":"r","at_ms":1,"charge_nusd":80,"hold_nusd":100}'
CALLS = bucket("calls", limit=3, unit="requests")
TOKENS = bucket("tokens", limit=1000, unit="tokens")
LIVE = bucket("live", limit=2, unit="concurrent")
ROLLING = bucket_id(rolling_bucket())


async def _refused(ledger: Ledger, amount: int, where: BucketSet, tokens: int = 0) -> Refusal:
    answer = await ledger.reserve(attempt_id="refused", amount_nusd=amount, buckets=where, tokens=tokens)
    assert isinstance(answer, Refusal), answer
    return answer


async def test_each_bucket_holds_and_is_charged_in_its_own_unit(ledger: Ledger) -> None:
    """One request is so much money, one call, so many tokens, and one call under way until it ends."""
    where = buckets(LIVE, bucket(), CALLS, TOKENS)
    reserved = await held(ledger, 100, where, tokens=600)
    assert await counters(ledger) == {"company": (0, 100, 0), "calls": (0, 1, 0), "tokens": (0, 600, 0), "live": (0, 1, 0)}
    assert {b.budget: left for b, left in reserved.left} == {"live": 1, "calls": 2, "tokens": 400}
    assert (reserved.tightest, reserved.tightest_left_nusd) == (bucket(), 900)
    assert await ledger.settle(reserved, charge_nusd=80, record=RECORD, tokens=250)
    assert not await ledger.settle(reserved, charge_nusd=80, record=RECORD, tokens=250)
    assert await counters(ledger) == {"company": (80, 0, 0), "calls": (1, 0, 0), "tokens": (250, 0, 0), "live": (0, 0, 0)}
    assert {(s.budget, s.unit) for s in await ledger.bucket_states()} >= {("calls", "requests"), ("live", "concurrent")}
    assert await ledger.verify() == [] == await ledger.audit()


@pytest.mark.parametrize(("full", "amounts"), [(CALLS, (3, 0, 3, 1)), (TOKENS, (1000, 900, 0, 300)), (LIVE, (2, 0, 2, 1))])
async def test_a_full_bucket_of_any_unit_refuses_and_nothing_is_held(ledger: Ledger, full: Bucket, amounts: tuple[int, ...]) -> None:
    """All or none, also over units; a request that costs nothing counts as a call all the same."""
    where = buckets(bucket(), full)
    for i in range(3 if full == CALLS else 2 if full == LIVE else 3):
        reserved = await held(ledger, 0, where, tokens=300, attempt_id=f"{i}")
        if full == TOKENS:
            await ledger.settle(reserved, charge_nusd=0, record=RECORD)
    before = await counters(ledger)
    refusal = await _refused(ledger, 0, where, 300)
    assert refusal.bucket == full
    assert (refusal.limit_nusd, refusal.spent_nusd, refusal.held_nusd, refusal.needed_nusd) == amounts
    assert refusal.retry_after_ms is None
    assert await counters(ledger) == before


async def test_no_more_calls_are_under_way_than_allowed_whoever_asks(store: Store) -> None:
    """A limit on parallel calls is one over all replicas."""
    one, two = await store.replica("one"), await store.replica("two")
    where = [buckets(replace(LIVE, limit_nusd=7), bucket(limit=10**9)) for _ in range(2)]
    answers = await asyncio.gather(
        *[(one, two)[i % 2].reserve(attempt_id=f"race-{i}", amount_nusd=1, buckets=where[i % 2]) for i in range(60)]
    )
    admitted = [a for a in answers if isinstance(a, Reservation)]
    assert len(admitted) == 7
    assert await one.void(admitted[0])
    await held(two, 1, where[1])
    assert (await counters(one))["live"] == (0, 7, 0)


async def test_a_void_gives_back_in_every_unit(ledger: Ledger) -> None:
    """A call that never left is no call."""
    reserved = await held(ledger, 100, buckets(bucket(), CALLS, TOKENS, LIVE, rolling_bucket()), tokens=600)
    assert await ledger.void(reserved)
    assert set((await counters(ledger)).values()) == {(0, 0, 0)}
    assert await ledger.verify() == []


async def test_an_unknown_number_of_tokens_is_what_was_held(ledger: Ledger) -> None:
    """Unknown is not zero."""
    reserved = await held(ledger, 100, buckets(TOKENS), tokens=600)
    await ledger.settle(reserved, charge_nusd=80, record=RECORD)
    assert await counters(ledger) == {"tokens": (600, 0, 0)}


async def test_more_tokens_than_held_are_counted_as_debt(ledger: Ledger) -> None:
    """They were used; what was never checked against the limit is named."""
    reserved = await held(ledger, 100, buckets(TOKENS), tokens=600)
    await ledger.settle(reserved, charge_nusd=80, record=RECORD, tokens=1200)
    assert await counters(ledger) == {"tokens": (1200, 0, 600)}
    assert await ledger.verify() == []


async def test_a_dead_replica_frees_its_calls_and_is_charged_their_tokens(store: Store) -> None:
    """Calls of a process that died are not under way any more; what they may have used is used until the truth comes."""
    one, two = await store.replica("one"), await store.replica("two")
    where = buckets(bucket(), CALLS, TOKENS, LIVE, rolling_bucket())
    reserved = await held(one, 100, where, tokens=600)
    await store.crash("one")
    assert await two.sweep() == 1
    assert {n: c[:2] for n, c in (await counters(two)).items() if "rolling" not in n} == {
        "company": (100, 0), "calls": (1, 0), "tokens": (600, 0), "live": (0, 0)
    }  # fmt: skip
    assert await two.verify() == []
    assert await one.settle(reserved, charge_nusd=40, record=RECORD, tokens=250)
    assert {n: c for n, c in (await counters(two)).items() if "rolling" not in n} == {
        "company": (40, 0, 0), "calls": (1, 0, 0), "tokens": (250, 0, 0), "live": (0, 0, 0)
    }  # fmt: skip
    assert await two.verify() == []


async def test_a_settlement_without_a_hold_counts_in_every_unit(ledger: Ledger) -> None:
    """The store lost the hold; the call was made all the same."""
    where = buckets(CALLS, TOKENS, LIVE, rolling_bucket())
    lost = Reservation(attempt_id="lost", amount_nusd=100, buckets=where, tokens=600)
    assert await ledger.settle(lost, charge_nusd=80, record=RECORD, tokens=250)
    found = {s.budget: (s.spent_nusd, s.held_nusd, s.debt_nusd) for s in await ledger.bucket_states()}
    assert found.pop("live", (0, 0, 0)) == (0, 0, 0)
    assert found == {"calls": (1, 0, 1), "tokens": (250, 0, 250), "rolling": (80, 0, 80)}
    assert await ledger.verify() == []


async def test_a_window_that_rolls_counts_what_is_not_older_than_it(store: Store) -> None:
    """There is no moment at which twice the limit can be spent."""
    ledger = await store.replica("one")
    where = buckets(rolling_bucket(limit=100))
    first = await held(ledger, 60, where)
    await ledger.settle(first, charge_nusd=50, record=RECORD)
    await store.pass_time(ROLLING, 30)
    await held(ledger, 40, where)
    refusal = await _refused(ledger, 20, where)
    assert (refusal.spent_nusd, refusal.held_nusd, refusal.left_nusd) == (50, 40, 10)
    # Ten fit when the first charge has left: 60 slots after it was held, 30 of which are over.
    assert refusal.retry_after_ms is not None
    assert 29 * SLOT_MS < refusal.retry_after_ms <= 30 * SLOT_MS
    await store.pass_time(ROLLING, 29)
    assert (await _refused(ledger, 20, where)).left_nusd == 10
    await store.pass_time(ROLLING, 1)
    assert (await held(ledger, 20, where)).tightest_left_nusd == 40
    assert [(s.spent_nusd, s.held_nusd) for s in await ledger.bucket_states()] == [(0, 60)]
    assert await ledger.verify() == []


async def test_a_hold_counts_when_it_was_made_however_late_it_ends(store: Store) -> None:
    """A charge moved to the end of a call would leave the window too late, and its hold would be given back from the wrong time."""
    ledger = await store.replica("one")
    where = buckets(rolling_bucket(limit=100))
    early, late = await held(ledger, 30, where), await held(ledger, 30, where)
    await store.pass_time(ROLLING, 40)
    extended = await ledger.extend(early, by_nusd=20)
    assert isinstance(extended, Reservation)
    assert extended.tightest_left_nusd == 20
    # 30 are charged where it began, all of its first piece, and 5 where it was extended.
    await ledger.settle(extended, charge_nusd=35, record=RECORD)
    assert [(s.spent_nusd, s.held_nusd) for s in await ledger.bucket_states()] == [(35, 30)]
    await store.pass_time(ROLLING, 20)
    assert (await held(ledger, 95, where)).tightest_left_nusd == 0
    # Its slot has left the window: its charge must not be counted now, nor its hold be given back.
    await ledger.settle(late, charge_nusd=45, record=RECORD)
    assert (await _refused(ledger, 1, where)).left_nusd == 0
    assert await ledger.verify() == []


async def test_a_window_in_which_nothing_happened_for_long_is_empty(store: Store) -> None:
    """More than all slots have passed at once."""
    ledger = await store.replica("one")
    where = buckets(rolling_bucket("rolling", limit=3, unit="requests"))
    name = bucket_id(where.buckets[0])
    for _ in range(3):
        await ledger.settle(await held(ledger, 1, where), charge_nusd=1, record=RECORD)
    refusal = await _refused(ledger, 1, where)
    assert refusal.retry_after_ms is not None
    assert 59 * SLOT_MS < refusal.retry_after_ms <= 60 * SLOT_MS
    await store.pass_time(name, 500)
    assert [s.spent_nusd for s in await ledger.bucket_states(current_only=False)] == [0]
    assert [left for _, left in (await held(ledger, 1, where)).left] == [2]
    assert await ledger.verify() == []


async def test_what_can_never_fit_is_not_promised_a_time(ledger: Ledger) -> None:
    """A client that waits for it would wait for ever."""
    assert (await _refused(ledger, 1001, buckets(rolling_bucket()))).retry_after_ms is None


async def test_a_refusal_by_a_window_of_the_calendar_says_when_it_ends(store: Store) -> None:
    """Also for plain budgets; of several that refuse, the one that takes longest counts."""
    ledger = await store.replica("one")
    now_ms = await store.now_ms()
    day = replace(bucket("day", limit=10, window="day"), starts_ms=now_ms - HOUR_MS, ends_ms=now_ms + HOUR_MS)
    refusal = await _refused(ledger, 20, buckets(day))
    assert refusal.retry_after_ms is not None
    assert HOUR_MS - 60_000 < refusal.retry_after_ms <= HOUR_MS
    minute = replace(day, budget="minute", unit="tokens", ends_ms=now_ms + HOUR_MS // 2)
    hour = replace(minute, budget="hour", ends_ms=now_ms + HOUR_MS)
    assert (await _refused(ledger, 1, buckets(hour, minute), 20)).bucket == hour


async def test_a_budget_on_trial_says_what_it_would_have_done(ledger: Ledger) -> None:
    """A limit is tried on live traffic before it refuses anybody."""
    trial = bucket("trial", limit=100, shadow=True)
    where = buckets(bucket(), trial)
    assert (await held(ledger, 80, where)).shadowed is None
    over = await held(ledger, 80, where)
    assert (over.shadowed, over.left, over.tightest_left_nusd) == (trial, ((trial, -60),), 840)
    assert (await counters(ledger))["trial"] == (0, 160, 0)


async def _carrying(store: Store, *, limit: int = 100, share: int = 200_000, used: int | None = 90) -> tuple[Ledger, BucketSet]:
    ledger = await store.replica("one")
    before = bucket("monthly", window="2026-10", limit=limit, carry_ppm=share, before="2026-09")
    if used is not None:
        await ledger.settle(await held(ledger, used, buckets(before)), charge_nusd=used, record=RECORD)
    return ledger, buckets(replace(before, window="2026-11", before="2026-10"))


@pytest.mark.parametrize(("used", "carried"), [(90, 10), (30, 20), (100, 0), (None, 0)])
async def test_what_was_left_of_the_last_window_is_added_up_to_a_share(store: Store, used: int | None, carried: int) -> None:
    """Whoever saved in October may spend some of it in November; a window that was never used leaves nothing."""
    ledger, november = await _carrying(store, used=used)
    assert (await _refused(ledger, 101 + carried, november)).limit_nusd == 100 + carried
    assert (await held(ledger, 100 + carried, november)).tightest_left_nusd == 0
    states = {s.window: s.limit_nusd for s in await ledger.bucket_states()}
    assert set(states) >= {"2026-11"}
    assert await ledger.verify() == []


async def test_what_is_carried_over_is_decided_once(store: Store) -> None:
    """Late charges of the last window change nothing any more, nor do they add up window by window without bound."""
    ledger, november = await _carrying(store, used=90)
    await held(ledger, 1, november)
    october = replace(november.buckets[0], window="2026-10", before="2026-09")
    await held(ledger, 10, buckets(october))
    assert (await _refused(ledger, 110, november)).limit_nusd == 110
    december = replace(november.buckets[0], window="2026-12", before="2026-11")
    assert (await _refused(ledger, 121, buckets(december))).limit_nusd == 120


async def test_limits_of_any_unit_change_live(ledger: Ledger) -> None:
    """The published limit decides: raised it admits at once, lowered it refuses at once."""
    where = buckets(CALLS, rolling_bucket(limit=100))
    await held(ledger, 50, where)
    await ledger.publish_limits({"calls": 1, "rolling": 100}, version="v2")
    assert (await _refused(ledger, 1, where)).limit_nusd == 1
    await ledger.publish_limits({"calls": 2, "rolling": 40}, version="v3")
    assert (await _refused(ledger, 1, where)).bucket.budget == "rolling"
    await ledger.publish_limits({"calls": 2, "rolling": 51}, version="v4")
    await held(ledger, 1, where)


async def test_an_audit_finds_drift_in_every_unit(store: Store) -> None:
    """Counters of calls and tokens come from the log, too."""
    ledger = await store.replica("one")
    where = buckets(TOKENS, CALLS, rolling_bucket())
    await ledger.settle(await held(ledger, 100, where, tokens=600), charge_nusd=80, record=RECORD, tokens=250)
    await ledger.trim(before_ms=await store.now_ms() + HOUR_MS)
    await ledger.settle(await held(ledger, 100, where, tokens=600), charge_nusd=80, record=RECORD, tokens=100)
    assert await ledger.verify() == []
    await store.tamper(bucket_id(TOKENS), 7)
    assert await ledger.verify() == [Drift(bucket_id(TOKENS), 357, 350, "spent")]


async def test_a_rolling_bucket_that_was_forgotten_begins_anew(store: Store) -> None:
    """Clients invent users and sessions: what nobody used for long takes no room, and the books still add up when it comes back."""
    ledger = await store.replica("one")
    where = buckets(rolling_bucket(limit=100))
    await ledger.settle(await held(ledger, 60, where), charge_nusd=50, record=RECORD)
    assert await ledger.audit() == []
    await store.forget(ROLLING)
    assert await ledger.sweep() == 0
    assert await ledger.bucket_states(current_only=False) == []
    assert await ledger.verify() == [] == await ledger.audit()
    await ledger.settle(await held(ledger, 60, where), charge_nusd=50, record=RECORD)
    assert await ledger.verify() == [] == await ledger.audit()
    assert len(await records(ledger)) == 2
    await ledger.trim(before_ms=await store.now_ms() + HOUR_MS)
    assert await ledger.verify() == []


def _user(name: str, *, rest: bool = False, **more: Any) -> BucketSet:
    return buckets(bucket("per-user", limit=100, scope=f"user={name}", max_scopes=2, shares_rest=rest, **more))


@pytest.mark.parametrize("unit", ["usd", "requests"])
async def test_clients_cannot_make_up_more_scopes_than_are_counted(store: Store, unit: Unit) -> None:
    """Every name is a counter: without a bound, one client fills the store; uncounted, it would spend without a limit."""
    one, two = await store.replica("one"), await store.replica("two")
    for name in ("alice", "bob", "alice"):
        await one.settle(await held(one, 10, _user(name, unit=unit)), charge_nusd=10, record=RECORD)
    refusal = await _refused(two, 10, _user("carol", unit=unit))
    assert (refusal.crowded, refusal.limit_nusd, refusal.bucket.scope) == (True, 2, "user=carol")
    assert len(await one.bucket_states()) == 2
    await held(two, 10, _user("bob", unit=unit))
    assert await one.verify() == []


async def test_scopes_beyond_the_bound_may_share_one(ledger: Ledger) -> None:
    """Nobody is turned away, and all that came too late have one limit together."""
    for name in ("alice", "bob"):
        await held(ledger, 10, _user(name, rest=True))
    carol = _user("carol", rest=True)
    first = await held(ledger, 60, carol)
    assert (await _refused(ledger, 60, _user("dave", rest=True))).bucket.scope == "user=*"
    assert (await held(ledger, 20, carol)).tightest_left_nusd == 20
    await ledger.settle(first, charge_nusd=50, record=RECORD)
    assert {s.scope: (s.spent_nusd, s.held_nusd) for s in await ledger.bucket_states()} == {
        "user=alice": (0, 10), "user=bob": (0, 10), "user=*": (50, 20)
    }  # fmt: skip
    assert await ledger.verify() == []


async def test_a_scope_that_is_forgotten_makes_room(store: Store) -> None:
    """The bound is one on what is kept now, not on all that ever was."""
    ledger = await store.replica("one")
    for name in ("alice", "bob"):
        await ledger.settle(await held(ledger, 10, _user(name)), charge_nusd=10, record=RECORD)
    await store.forget(bucket_id(_user("alice").buckets[0]))
    await ledger.sweep()
    await held(ledger, 10, _user("carol"))
    assert (await _refused(ledger, 10, _user("dave"))).crowded


async def test_a_session_that_nobody_uses_is_forgotten_and_one_with_a_hold_is_not(store: Store) -> None:
    """Its window never ends, so it must end by itself; its charges stay in the log."""
    ledger = await store.replica("one")
    idle, busy = (buckets(bucket("run", scope=f"session={name}", max_scopes=9)) for name in ("idle", "busy"))
    await ledger.settle(await held(ledger, 60, idle), charge_nusd=50, record=RECORD)
    await held(ledger, 60, busy)
    for _ in range(2):
        for where in (idle, busy):
            await store.forget(bucket_id(where.buckets[0]))
        await ledger.sweep()
        assert await ledger.verify() == []
    assert [s.scope for s in await ledger.bucket_states(current_only=False)] == ["session=busy"]
    await ledger.settle(await held(ledger, 60, idle), charge_nusd=30, record=RECORD)
    assert (await held(ledger, 970, idle)).tightest_left_nusd == 0
    assert await ledger.verify() == [] == await ledger.audit()
