"""What alerts keep in a ledger file: what was told, who looks, and the log from where one left off."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from router.adapters.entries import CLOSED, Entry, present
from router.adapters.sqlite.side_tables import SideTables
from router.alerts.ports import Mark

T = TypeVar("T")
PAGE: Final = 500
TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS alert_mark (name TEXT PRIMARY KEY, until_ms INTEGER NOT NULL, event BLOB) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS alert_leader (one INTEGER PRIMARY KEY CHECK (one=1), owner TEXT NOT NULL, until_ms INTEGER NOT NULL)",
)
STATE: Final = "alerts_state"
"""Row of table `meta`."""


class SqliteMarkers(SideTables):
    """`router.alerts.ports.AlertStore` in the file of a ledger. Each call is one transaction, in a thread. Time is the machine's."""

    tables = TABLES
    purpose = "alerts"

    async def lead(self, owner: str, *, lease_ms: int) -> int | None:
        """See `Markers.lead`. Writes only to take the lease, and to renew it when half of it is over."""
        if not lease_ms:
            await self._run(lambda db: db.execute("DELETE FROM alert_leader WHERE owner=?", (owner,)))
            return None
        now = self._clock_ms()
        found = await self._run(lambda db: db.execute("SELECT owner, until_ms FROM alert_leader").fetchone(), write=False)
        if found is not None and found[1] > now:
            if found[0] != owner:
                return None
            if found[1] - now > lease_ms // 2:
                return now

        def take(db: sqlite3.Connection) -> bool:
            db.execute(
                "INSERT INTO alert_leader VALUES (1, ?, ?) ON CONFLICT (one) DO UPDATE SET owner=excluded.owner, until_ms=excluded.until_ms"
                " WHERE owner=excluded.owner OR until_ms <= ?",
                (owner, now + lease_ms, now),
            )
            return bool(db.execute("SELECT changes()").fetchone()[0])

        return now if await self._run(take) else None

    async def mark(self, name: str, *, keep_ms: int, event: bytes) -> bool:
        """See `Markers.mark`."""
        now = self._clock_ms()

        def note(db: sqlite3.Connection) -> bool:
            db.execute(
                "INSERT INTO alert_mark VALUES (?, ?, ?) ON CONFLICT (name)"
                " DO UPDATE SET until_ms=excluded.until_ms, event=excluded.event WHERE until_ms <= ?",
                (name, now + keep_ms, event or None, now),
            )
            return bool(db.execute("SELECT changes()").fetchone()[0])

        return await self._run(note)

    async def done(self, name: str) -> None:
        """See `Markers.done`."""
        await self._run(lambda db: db.execute("UPDATE alert_mark SET event=NULL WHERE name=?", (name,)))

    async def clear(self, names: Sequence[str]) -> None:
        """See `Markers.clear`."""
        if names:
            await self._run(lambda db: db.executemany("DELETE FROM alert_mark WHERE name=?", [(name,) for name in names]))

    async def marks(self) -> Mapping[str, Mark]:
        """See `Markers.marks`. Those that are over are dropped; what was not delivered is not lost with its mark."""
        now = self._clock_ms()

        def read(db: sqlite3.Connection) -> list[tuple[str, int, bytes | None]]:
            db.execute("DELETE FROM alert_mark WHERE until_ms <= ? AND event IS NULL", (now,))
            return db.execute("SELECT name, until_ms, event FROM alert_mark").fetchall()

        return {name: Mark(until_ms, event) for name, until_ms, event in await self._run(read)}

    async def page(self, cursor: str, *, since_ms: int) -> tuple[str, Sequence[bytes]]:
        """See `Logbook.page`."""

        def read(db: sqlite3.Connection) -> tuple[int, list[Entry]]:
            # Without a cursor the beginning is looked for once; from then on, the number of the last line is enough.
            first = "SELECT coalesce((SELECT min(seq) - 1 FROM log WHERE at_ms >= ?), (SELECT max(seq) FROM log), 0)"
            after: int = int(cursor) if cursor else db.execute(first, (since_ms,)).fetchone()[0]
            rows = db.execute(
                "SELECT seq, at_ms, attempt_id, outcome, spent, debt, held, buckets, record FROM log WHERE seq > ? ORDER BY seq LIMIT ?",
                (after, PAGE),
            ).fetchall()
            names = ("at_ms", "attempt_id", "outcome", "spent_nusd", "debt_nusd", "held_nusd", "joined", "record")
            entries = [Entry(**dict(zip(names, row[1:], strict=True))) for row in rows]
            return (rows[-1][0] if rows else after), entries

        last, found = await self._run(read, write=False)
        return str(last), [present(entry) for entry in found if entry.outcome != CLOSED]

    async def load(self) -> bytes:
        """See `Logbook.load`."""
        row = await self._run(lambda db: db.execute("SELECT value FROM meta WHERE name=?", (STATE,)).fetchone(), write=False)
        return bytes(row[0]) if row else b""

    async def save(self, state: bytes) -> None:
        """See `Logbook.save`."""
        await self._run(lambda db: db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (STATE, state)))
