"""A slice of a budget that was held beforehand, and handed over to the calls that were paid from it."""

from __future__ import annotations

import json

import pytest

from router.domain.budgets import BucketSet, Refusal, Reservation
from router.ports import Ledger
from tests.contract.stores import Store, bucket, buckets, counters, held, records, rolling_bucket

KINDS = {
    "plain": (buckets(bucket(limit=1000)), buckets(bucket(limit=1000))),
    # A call falls under limits, too, that no slice is held in.
    "special": (
        buckets(bucket(limit=1000), rolling_bucket(limit=1000)),
        buckets(bucket(limit=1000), rolling_bucket(limit=1000), bucket("calls", limit=50, unit="requests")),
    ),
}
kinds = pytest.mark.parametrize("kind", KINDS)


def call(attempt_id: str, amount: int, where: BucketSet) -> Reservation:
    """A call that the store has not heard of."""
    return Reservation(attempt_id=attempt_id, amount_nusd=amount, buckets=where)


def record(attempt_id: str, charge: int) -> bytes:
    return json.dumps({"attempt_id": attempt_id, "request_id": "r", "at_ms": 1, "charge_nusd": charge}).encode()


async def settle(ledger: Ledger, lender: str, done: Reservation, charge: int) -> None:
    """As it is delivered once the store is back."""
    await ledger.lend(lender, to=done, total_nusd=min(charge, done.amount_nusd))
    await ledger.settle(done, charge_nusd=charge, record=record(done.attempt_id, charge))


async def books(ledger: Ledger) -> tuple[int, int, int]:
    """Spent, held, debt of all budgets in USD, which agree."""
    found = {key: value for key, value in (await counters(ledger)).items() if not key.startswith("calls")}
    assert len(set(found.values())) == 1, found
    assert await ledger.verify() == []
    return next(iter(found.values()))


@kinds
async def test_calls_paid_from_a_slice_are_booked_without_debt(ledger: Ledger, kind: str) -> None:
    """Overshoot 0: what the calls cost was set aside before, and the limit was never asked again."""
    slices, calls = KINDS[kind]
    await held(ledger, 600, slices, attempt_id="slice")
    await held(ledger, 400, slices, attempt_id="others")
    for name, charge in (("a", 150), ("b", 200)):
        await settle(ledger, "slice", call(name, 250, calls), charge)
    assert await books(ledger) == (350, 650, 0)
    await ledger.void(call("slice", 600, slices))
    assert await books(ledger) == (350, 400, 0)
    await ledger.settle(call("others", 400, slices), charge_nusd=400, record=record("others", 400))
    assert await books(ledger) == (750, 0, 0)
    assert [json.loads(line)["charge_nusd"] for line in await records(ledger)] == [150, 200, 400]
    assert isinstance(await ledger.reserve(attempt_id="more", amount_nusd=251, buckets=slices), Refusal)
    assert isinstance(await ledger.reserve(attempt_id="fits", amount_nusd=250, buckets=slices), Reservation)


@kinds
async def test_a_delivery_that_is_repeated_takes_from_the_slice_once(ledger: Ledger, kind: str) -> None:
    """An answer that was not heard makes the outbox deliver again."""
    slices, calls = KINDS[kind]
    await held(ledger, 600, slices, attempt_id="slice")
    done = call("a", 250, calls)
    assert await ledger.lend("slice", to=done, total_nusd=200)
    assert not await ledger.lend("slice", to=done, total_nusd=200)
    assert await books(ledger) == (0, 600, 0)
    for _ in range(2):
        await settle(ledger, "slice", done, 200)
    await ledger.void(call("slice", 600, slices))
    assert await books(ledger) == (200, 0, 0)
    assert not await ledger.lend("slice", to=call("late", 1, calls), total_nusd=1), "nothing is left of it"


@kinds
async def test_a_slice_of_a_replica_that_was_given_up_is_charged_and_corrected(store: Store, kind: str) -> None:
    """Away for longer than its lease: others must not spend the slice, so it counts as spent, until the truth is known."""
    slices, calls = KINDS[kind]
    one, two = await store.replica("one"), await store.replica("two")
    await held(one, 600, slices, attempt_id="slice")
    known = await held(one, 100, calls, attempt_id="known")
    await store.crash("one")
    assert await two.sweep() == 2
    assert await books(two) == (700, 0, 0)
    await settle(one, "slice", call("a", 250, calls), 150)
    # Held in the store before, and extended from the slice.
    await settle(one, "slice", call("known", known.amount_nusd + 50, calls), 140)
    await one.void(call("slice", 600, slices))
    assert await books(one) == (290, 0, 0)


@kinds
async def test_a_hold_of_the_store_is_extended_from_a_slice(ledger: Ledger, kind: str) -> None:
    """A stream began while the store was there, and went on when it was away."""
    slices, calls = KINDS[kind]
    await held(ledger, 300, slices, attempt_id="slice")
    stream = await held(ledger, 100, calls, attempt_id="stream")
    await settle(ledger, "slice", call("stream", stream.amount_nusd + 100, calls), 180)
    assert await books(ledger) == (180, 220, 0)
    # More than all that was set aside: booked in full, the excess is debt.
    await settle(ledger, "slice", call("b", 100, calls), 130)
    assert await books(ledger) == (310, 120, 30)
    await ledger.void(call("slice", 300, slices))
    assert await books(ledger) == (310, 0, 30)
