"""Charges that are changed long after their calls: in the windows they belong to, once, and the books still agree."""

from __future__ import annotations

import msgspec
import pytest

from router.books.correcting import apply
from router.books.reading import read_open
from router.books.rerate import Rerating
from router.domain.controls import AuditEntry
from router.domain.prices import Price, Rates
from router.domain.records import SpendRecord
from router.errors import ConfigError
from router.ports import Correction, Ledger
from router.spend import Report
from tests.contract.stores import Store, bucket, buckets, counters, held, rolling_bucket

TRIPLE = Price(rates=Rates(input=3_000_000, output=3_000_000), source="config")
"""3 nano-USD a token; the records were charged 1."""
BASELINE = 10
"""Nano-USD a token on the baseline."""
DAY = bucket("day", window="2026-11-22")
TOKENS = bucket("tokens", unit="tokens", limit=10_000)
ROLLING = rolling_bucket()
WHERE = buckets(bucket(), DAY, TOKENS, ROLLING)


async def charge(ledger: Ledger, tokens: int, *, at_ms: int = 1) -> None:
    """A call that was charged a nano-USD for each token."""
    made = await held(ledger, tokens, WHERE, tokens=tokens)
    line = SpendRecord(
        attempt_id=made.attempt_id,
        request_id="r",
        at_ms=at_ms,
        input_tokens=tokens,
        charge_nusd=tokens,
        price_source="config",
        baseline_nusd=tokens * BASELINE,
    )
    assert await ledger.settle(made, charge_nusd=tokens, tokens=tokens, record=msgspec.json.encode(line))


def rerating() -> Rerating:
    return Rerating(price_of=lambda _: TRIPLE)


async def test_a_new_price_is_booked_where_the_calls_were_charged(ledger: Ledger, store: Store) -> None:
    """Counters, log and what is spent in all agree on it; tokens were not used again; old lines stay as they were."""
    for tokens in (5, 7, 0):
        await charge(ledger, tokens, at_ms=await store.now_ms())
    before = [record async for record in ledger.records()]
    booked = rerating()
    assert await apply(ledger, booked, since_ms=0, who="me", reason="wrong price") == 2
    assert await counters(ledger) == {
        "company": (36, 0, 0),
        "day//2026-11-22": (36, 0, 0),
        "tokens": (12, 0, 0),
        f"rolling//{ROLLING.window}": (36, 0, 0),
    }
    assert list(await ledger.verify()) == []
    lines = [record async for record in ledger.records()]
    assert lines[:3] == before
    correction = msgspec.json.decode(lines[3], type=SpendRecord)
    assert (correction.reason, correction.outcome, correction.charge_nusd, correction.price_input) == ("rerate", "corrected", 10, 3_000_000)
    report = Report(by=("team",))
    await read_open(ledger, report.add)
    assert report.total.charge_nusd == booked.total.rerated_nusd == 36
    assert report.total.avoided_nusd == 12 * BASELINE - 36
    [(_, entry)] = [each async for each in ledger.control_store().history()]
    told = msgspec.json.decode(entry, type=AuditEntry)
    assert (told.who, told.action, told.target, told.after, told.reason) == (
        "me", "ledger.rerate", "2 calls", "+0.000000024 USD", "wrong price"
    )  # fmt: skip
    # What serves meanwhile goes on with these counters.
    await charge(ledger, 1)
    assert (await counters(ledger))["company"] == (37, 0, 0)


async def test_what_was_booked_is_not_booked_again(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a second run, by one that follows a run that was killed half-way, and for a span that had ended before the corrections."""
    monkeypatch.setattr("router.books.correcting.MOST_AT_ONCE", 2)
    for _ in range(3):
        await charge(ledger, 5)
    first, second = rerating(), rerating()
    corrections = ledger.corrections()
    await read_open(ledger, first.add)
    first.compare()
    one = first.changes[0].record
    line = SpendRecord(attempt_id=one.attempt_id, request_id="r", at_ms=2, reason="rerate", outcome="corrected", charge_nusd=10)
    killed = Correction(attempt_id=one.attempt_id, by_nusd=10, at_ms=1, buckets=tuple(one.buckets), record=msgspec.json.encode(line))
    assert await corrections.book([killed], turn=await corrections.turn(), entry=b"{}")
    assert await apply(ledger, second, since_ms=0, who="me", reason="x") == 2
    until = rerating()
    until.until_ms = 2
    assert await apply(ledger, until, since_ms=0, who="me", reason="x") == 0
    assert until.total.charged_nusd == 45
    assert (await counters(ledger))["company"] == (45, 0, 0)
    assert list(await ledger.verify()) == []


async def test_of_two_at_once_one_is_refused(ledger: Ledger) -> None:
    """Both read the same log: booked twice, every charge would be wrong."""
    await charge(ledger, 5)
    corrections = ledger.corrections()
    turn = await corrections.turn()
    assert await apply(ledger, rerating(), since_ms=0, who="me", reason="x") == 1
    by = Correction(attempt_id="a", by_nusd=10, at_ms=1, buckets=("company||all",), record=b"{}")
    assert not await corrections.book([by], turn=turn, entry=b"{}")
    assert (await counters(ledger))["company"] == (15, 0, 0)


async def test_a_window_that_is_forgotten_is_left_alone(ledger: Ledger, store: Store) -> None:
    """Its counter is gone: a new one would begin with a difference, and look like a drift."""
    await charge(ledger, 5)
    await store.forget("day||2026-11-22")
    await ledger.sweep()
    before = await ledger.verify()
    assert await apply(ledger, rerating(), since_ms=0, who="me", reason="x") == 1
    assert (await counters(ledger))["company"] == (15, 0, 0)
    assert "day//2026-11-22" not in await counters(ledger)
    assert await ledger.verify() == before


async def test_a_record_that_cannot_be_read_stops_it(ledger: Ledger) -> None:
    """It may be a correction: what it corrected would be corrected again."""
    made = await held(ledger, 5, WHERE)
    await ledger.settle(made, charge_nusd=5, record=b'{"attempt_id":"x","request_id":"r","at_ms":"soon","buckets":[]}')
    with pytest.raises(ConfigError, match="nothing was booked"):
        await apply(ledger, rerating(), since_ms=0, who="me", reason="x")


async def test_a_window_that_rolls_has_it_when_the_call_was_made(ledger: Ledger, store: Store) -> None:
    """What has left the window does not come back into it by a correction."""
    await charge(ledger, 5)
    await charge(ledger, 1, at_ms=await store.now_ms())
    assert await apply(ledger, rerating(), since_ms=0, who="me", reason="x") == 2
    assert (await counters(ledger))["company"] == (18, 0, 0)
    assert (await counters(ledger))[f"rolling//{ROLLING.window}"] == (8, 0, 0)
    assert list(await ledger.verify()) == []
