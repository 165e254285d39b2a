"""A ledger file that is busy, full or read-only: every call ends in time, and the books stay right."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.adapters.entries import KEEP_MS, TOMBSTONE_MS
from router.adapters.sqlite.ledger import SqliteLedger
from router.errors import StoreUnavailable
from tests.contract.stores import bucket, buckets, counters, held, records

WHERE = buckets(bucket())
RECORD = b'{"attempt_id":"a","request_id":"r","at_ms":1}'


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    made = SqliteLedger(str(tmp_path / "ledger.sqlite"), timeout_seconds=0.1)
    await made.open(replica_id="one", lease_seconds=20)
    yield made
    await made.close()


async def test_a_file_that_another_process_keeps_locked_fails_in_time(ledger: SqliteLedger) -> None:
    """And works again when it is free; what was in memory is read anew."""
    reserved = await held(ledger, 100, WHERE)
    with contextlib.closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="locked"):
            await ledger.settle(reserved, charge_nusd=80, record=RECORD)
        assert time.monotonic() - began < 1
        other.execute("UPDATE bucket SET spent=spent+5")
        other.execute("COMMIT")
    assert await ledger.settle(reserved, charge_nusd=80, record=RECORD)
    assert await counters(ledger) == {"company": (85, 0, 0)}


async def test_a_file_that_is_full_takes_nothing_and_recovers(ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a batch that cannot be written, nothing is."""
    reserved = await held(ledger, 100, WHERE)
    assert ledger._writer is not None
    # SQLite reports a file that may not grow as a full disk.
    ledger._writer._db.execute("PRAGMA max_page_count=1")
    with pytest.raises(StoreUnavailable, match="full"):
        await asyncio.gather(*[ledger.settle(reserved, charge_nusd=80, record=b"x" * 100_000) for _ in range(3)])
    ledger._writer._db.execute("PRAGMA max_page_count=1000000")
    assert await counters(ledger) == {"company": (0, 100, 0)}
    assert await ledger.settle(reserved, charge_nusd=80, record=RECORD)
    assert await ledger.verify() == []


async def test_an_operation_that_cannot_be_written_fails_alone(ledger: SqliteLedger) -> None:
    """A bug must not end the thread that writes: every later call would wait for ever."""
    reserved = await held(ledger, 100, WHERE)
    # Half a character is no text to SQLite.
    bad, good = await asyncio.gather(
        ledger.heartbeat({"a\ud800": 5}), ledger.settle(reserved, charge_nusd=80, record=RECORD), return_exceptions=True
    )
    assert isinstance(bad, StoreUnavailable)
    assert "UnicodeEncodeError" in str(bad)
    assert good is True
    assert await counters(ledger) == {"company": (80, 0, 0)}
    assert await ledger.verify() == []


async def test_a_closed_ledger_says_so(tmp_path: Path) -> None:
    """A call after the end is an outage, not a hang."""
    made = SqliteLedger(str(tmp_path / "ledger.sqlite"))
    with pytest.raises(StoreUnavailable, match="not open"):
        await made.ping()
    await made.open(replica_id="one", lease_seconds=20)
    await made.close()
    with pytest.raises(StoreUnavailable, match="not open"):
        await made.ping()


async def test_the_file_is_for_its_owner_only(ledger: SqliteLedger) -> None:
    """It holds the pepper and who spent what."""
    assert Path(ledger.path).stat().st_mode & 0o077 == 0


async def test_old_windows_and_tombstones_are_dropped_but_the_log_is_not(tmp_path: Path) -> None:
    """A file that grows by every attempt and window would slow down for ever; the books are kept."""
    now = [1_800_000_000_000]
    made = SqliteLedger(str(tmp_path / "ledger.sqlite"), clock_ms=lambda: now[0])
    await made.open(replica_id="one", lease_seconds=20)
    day = bucket(window="day")
    ended = buckets(type(day)(**{name: getattr(day, name) for name in day.__slots__} | {"ends_ms": now[0] + 1}), bucket())
    await made.settle(await held(made, 100, ended), charge_nusd=80, record=RECORD)
    now[0] += TOMBSTONE_MS + 1
    await made.heartbeat({})
    await made.sweep()
    with contextlib.closing(sqlite3.connect(made.path)) as other:
        assert other.execute("SELECT count(*) FROM attempt").fetchone() == (0,)
    assert len(await counters(made)) == 2
    now[0] += KEEP_MS
    await made.heartbeat({})
    await made.sweep()
    assert await counters(made) == {"company": (80, 0, 0)}
    assert len(await records(made)) == 1
    assert await made.verify() == []
    await made.close()
