"""Whatever was charged and however it ended: after a re-rating the books agree, and what is spent is the re-rated sum."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from router.books.correcting import apply
from router.books.reading import read_open
from router.books.rerate import Compared, Rerating
from router.domain.prices import Price, Rates
from router.domain.records import SpendRecord
from router.ports import Ledger
from router.spend import Report
from tests.contract.stores import SqliteStore, bucket, buckets, held, rolling_bucket

WHERE = buckets(bucket(limit=10**9), bucket("day", window="2026-11-22", limit=10**9), rolling_bucket(limit=10**9))
CALL = st.tuples(st.sampled_from(["ok", "refused_upstream", "voided", "swept", "corrected"]), st.integers(0, 999), st.integers(0, 999))
RATE = st.integers(0, 5).map(lambda nusd: nusd * 1_000_000)


async def make(store: SqliteStore, number: int, how: str, tokens: int, charge: int) -> None:
    """One call, by a replica of its own that may die."""
    name = f"replica-{number}"
    ledger = await store.replica(name)
    made = await held(ledger, 999, WHERE, attempt_id=f"a{number}")
    if how in ("swept", "corrected"):
        await store.crash(name)
        assert await ledger.sweep() == 1
    if how == "voided":
        await ledger.void(made)
    elif how != "swept":
        charge = 0 if how == "refused_upstream" else charge
        line = SpendRecord(attempt_id=made.attempt_id, request_id="r", at_ms=store.clock_ms, input_tokens=tokens, charge_nusd=charge)
        line.outcome = "ok" if how == "corrected" else how
        assert await ledger.settle(made, charge_nusd=charge, record=msgspec.json.encode(line))


async def rerate(ledger: Ledger, rate: int) -> Compared:
    price = Price(rates=Rates(input=rate, output=rate), source="config")
    made = Rerating(price_of=lambda _: price)
    await apply(ledger, made, since_ms=0, who="me", reason="x")
    return made.total


async def check(folder: Path, calls: list[tuple[str, int, int]], rates: list[int]) -> None:
    store = SqliteStore(folder)
    for number, call in enumerate(calls):
        await make(store, number, *call)
    ledger = await store.replica("books")
    for rate in rates:
        total = await rerate(ledger, rate)
        report = Report(by=("team",))
        await read_open(ledger, report.add)
        assert report.total.charge_nusd == total.rerated_nusd
        assert list(await ledger.verify()) == []
        assert [state.spent_nusd for state in await ledger.bucket_states()] == [total.rerated_nusd] * 3 if calls else True
    again = await rerate(ledger, rates[-1])
    assert again.charged_nusd == again.rerated_nusd == total.rerated_nusd
    await store.close()


@settings(max_examples=8, deadline=None)
@given(calls=st.lists(CALL, max_size=4), rates=st.lists(RATE, min_size=1, max_size=2))
def test_after_a_rerating_the_books_agree(calls: list[tuple[str, int, int]], rates: list[int]) -> None:
    """At one price, then at another, then at the same again: the last changes nothing."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(check(Path(folder), calls, rates))
