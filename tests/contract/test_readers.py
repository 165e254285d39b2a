"""Programs that keep records elsewhere: the log can be kept until they have read it."""

from __future__ import annotations

from router.ports import Ledger
from tests.contract.stores import bucket, buckets, held, records

RECORD = b'{"attempt_id":"a","request_id":"r","at_ms":1}'


async def test_what_was_not_read_by_all_is_not_trimmed(ledger: Ledger) -> None:
    """Neither before one of them ever read, nor beyond what the slowest has read."""
    readers, where = ledger.readers(), buckets(bucket())
    assert await readers.read_until(["a", "b"]) == 0
    positions = []
    for _ in range(3):
        await ledger.settle(await held(ledger, 1, where), charge_nusd=1, record=RECORD)
        position, _ = await ledger.alert_store().page(positions[-1] if positions else "", since_ms=0)
        positions.append(position)
    await readers.note("a", positions[2])
    assert await readers.read_until(["a", "b"]) == 0
    await readers.note("b", positions[0])
    until_ms = await readers.read_until(["a", "b"])
    assert 0 < until_ms <= await readers.read_until(["a"])
    await ledger.trim(before_ms=until_ms)
    assert len(await records(ledger)) >= 2
    assert len((await ledger.alert_store().page(positions[0], since_ms=0))[1]) == 2
