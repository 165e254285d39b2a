"""What alerts keep in a ledger file: what was told, who looks, and the log from where one left off."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from router.adapters.entries import CLOSED, Entry, present
from router.adapters.sqlite.side_tables import SideTables
from router.alerts.ports import Mark
from router.errors import LogReplaced

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

        def read(db: sqlite3.Connection) -> tuple[str, list[Entry]]:
            # Without a cursor the beginning is looked for once; from then on, the last line is known by its number and a mark.
            first = "SELECT coalesce((SELECT min(seq) - 1 FROM log WHERE at_ms >= ?), (SELECT max(seq) FROM log), 0)"
            after = place_in(cursor) if cursor else db.execute(first, (since_ms,)).fetchone()[0]
            if cursor:
                _check(db, cursor, after)
            rows = db.execute(
                "SELECT seq, at_ms, attempt_id, outcome, spent, debt, held, buckets, record FROM log WHERE seq > ? ORDER BY seq LIMIT ?",
                (after, PAGE),
            ).fetchall()
            names = ("at_ms", "attempt_id", "outcome", "spent_nusd", "debt_nusd", "held_nusd", "joined", "record")
            entries = [Entry(**dict(zip(names, row[1:], strict=True))) for row in rows]
            return (f"{rows[-1][0]}.{_mark(*rows[-1][1:4])}" if rows else cursor or str(after)), entries

        last, found = await self._run(read, write=False)
        return last, [present(entry) for entry in found if entry.outcome != CLOSED]

    async def load(self) -> bytes:
        """See `Logbook.load`."""
        row = await self._run(lambda db: db.execute("SELECT value FROM meta WHERE name=?", (STATE,)).fetchone(), write=False)
        return bytes(row[0]) if row else b""

    async def save(self, state: bytes) -> None:
        """See `Logbook.save`."""
        await self._run(lambda db: db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (STATE, state)))


def place_in(cursor: str) -> int:
    """The number of the line that a cursor is behind."""
    return int(cursor.partition(".")[0])


def _mark(at_ms: int, attempt_id: str, outcome: str) -> str:
    """Tells a line from one that has its number in another log."""
    return hashlib.blake2b(f"{at_ms} {attempt_id} {outcome}".encode(), digest_size=4).hexdigest()


def _check(db: sqlite3.Connection, cursor: str, place: int) -> None:
    """A file that was restored or made anew gives numbers a second time: what is new would be taken for read."""
    mark = cursor.partition(".")[2]
    row = db.execute("SELECT at_ms, attempt_id, outcome FROM log WHERE seq=?", (place,)).fetchone()
    # Both in one SELECT would make SQLite read the whole log.
    least, most = db.execute("SELECT (SELECT min(seq) FROM log), (SELECT max(seq) FROM log)").fetchone()
    # A line that is not there was trimmed, as all before it were, or has not been written.
    replaced = (mark and _mark(*row) != mark) if row else least is not None and place and (least <= place or most < place)
    if replaced:
        raise LogReplaced(f"its log is not the one that was read up to line {place}: it was restored, or made anew")
