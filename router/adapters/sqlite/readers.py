"""How far programs that keep records elsewhere have read the log in a ledger file."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from router.adapters.sqlite.markers import place_in
from router.adapters.sqlite.side_tables import SideTables

TABLES = ("CREATE TABLE IF NOT EXISTS reader (name TEXT PRIMARY KEY, seq INTEGER NOT NULL, at_ms INTEGER NOT NULL) WITHOUT ROWID",)


class SqliteReaders(SideTables):
    """`router.ports.Readers` in the file of a ledger."""

    tables = TABLES
    purpose = "readers of its log"

    async def note(self, name: str, position: str) -> None:
        """See `Readers.note`."""
        kept = "INSERT OR REPLACE INTO reader SELECT ?, seq, at_ms FROM log WHERE seq <= ? ORDER BY seq DESC LIMIT 1"
        await self._run(lambda db: db.execute(kept, (name, place_in(position))))

    async def read_until(self, names: Sequence[str]) -> int:
        """See `Readers.read_until`."""

        def read(db: sqlite3.Connection) -> dict[str, int]:
            return dict(db.execute("SELECT name, at_ms FROM reader").fetchall())

        found = await self._run(read, write=False)
        return min(found.get(name, 0) for name in names)
