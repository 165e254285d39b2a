"""Changes of old charges in a ledger file."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from router.adapters.entries import SEPARATOR
from router.adapters.sqlite.controls import TABLES
from router.adapters.sqlite.counters import rolling
from router.adapters.sqlite.schema import APPEND_TO_LOG
from router.adapters.sqlite.side_tables import SideTables
from router.domain.windows import rolling_of, unit_of
from router.ports import Correction

TURN: Final = "corrections"
"""Row of table `meta`."""


class SqliteCorrections(SideTables):
    """`router.ports.Corrections` in the file of a ledger: other processes see it as one of another process's commits."""

    # The audit log is one of them.
    tables = TABLES
    purpose = "corrections"

    async def turn(self) -> int:
        """See `Corrections.turn`."""
        return await self._run(_turn, write=False)

    async def book(self, corrections: Sequence[Correction], *, turn: int, entry: bytes) -> bool:
        """See `Corrections.book`."""
        now = self._clock_ms()

        def write(db: sqlite3.Connection) -> bool:
            if _turn(db) != turn:
                return False
            for each in corrections:
                changed = SEPARATOR.join(name for name in each.buckets if _change(db, name, each))
                db.execute(APPEND_TO_LOG, (now, each.attempt_id, "", each.by_nusd, 0, 0, changed, each.record, 0, 0, 0, 0))
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (TURN, str(turn + 1)))
            db.execute("INSERT INTO audit_log (at_ms, entry) VALUES (?, ?)", (now, entry))
            return True

        return await self._run(write)


def _turn(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT value FROM meta WHERE name=?", (TURN,)).fetchone()
    return int(row[0]) if row else 0


def _change(db: sqlite3.Connection, name: str, by: Correction) -> bool:
    """Add to a bucket's counter; false if it has none in USD."""
    row = db.execute("SELECT rolling FROM bucket WHERE id=?", (name,)).fetchone()
    if row is None or unit_of(name) != "usd":
        return False
    kept = row[0]
    if length_ms := rolling_of(name):
        window = rolling(length_ms, kept)
        window.add(by.at_ms, by.by_nusd)
        kept = window.encode()
    db.execute("UPDATE bucket SET spent=spent+?, rolling=? WHERE id=?", (by.by_nusd, kept, name))
    return True
