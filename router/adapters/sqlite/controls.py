"""What people change while the service runs, and the audit log, in a ledger file."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from router.adapters.entries import checked_amount
from router.adapters.sqlite.schema import scoped_name
from router.adapters.sqlite.side_tables import SideTables
from router.domain.controls import Limit

T = TypeVar("T")
PAGE: Final = 500
TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS control (one INTEGER PRIMARY KEY CHECK (one=1), version INTEGER NOT NULL, stored BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS audit_log (seq INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, entry BLOB NOT NULL)",
)


class SqliteControls(SideTables):
    """`router.ports.ControlStore` in the file of a ledger. Each call is one transaction, in a thread. Time is the machine's."""

    tables = TABLES
    purpose = "controls"

    async def look(self) -> tuple[int, int]:
        """See `Controls.look`."""
        return await self._run(_version, write=False), self._clock_ms()

    async def load(self) -> bytes:
        """See `Controls.load`."""
        row = await self._run(lambda db: db.execute("SELECT stored FROM control").fetchone(), write=False)
        return bytes(row[0]) if row else b""

    async def commit(
        self, stored: bytes, *, expected: int, version: int, entries: Sequence[bytes] = (), limits: Mapping[str, Limit] | None = None
    ) -> bool:
        """See `Controls.commit`."""

        def write(db: sqlite3.Connection) -> bool:
            if _version(db) != expected:
                return False
            db.execute("INSERT OR REPLACE INTO control VALUES (1, ?, ?)", (version, stored))
            db.executemany("INSERT INTO audit_log (at_ms, entry) VALUES (?, ?)", [(self._clock_ms(), entry) for entry in entries])
            if limits is not None:
                db.execute("DELETE FROM budget")
                db.executemany("INSERT INTO budget VALUES (?, ?)", _rows(limits))
                db.execute("INSERT OR REPLACE INTO meta VALUES ('limits_version', ?)", (str(version),))
            return True

        return await self._run(write, write=True)

    async def append(self, entry: bytes) -> None:
        """See `AuditLog.append`."""
        row = (self._clock_ms(), entry)
        await self._run(lambda db: db.execute("INSERT INTO audit_log (at_ms, entry) VALUES (?, ?)", row), write=True)

    async def history(self, *, since_ms: int = 0) -> AsyncIterator[tuple[int, bytes]]:
        """See `AuditLog.history`."""
        last = 0
        while True:
            page = await self._run(partial(_page, after=last, since_ms=since_ms), write=False)
            for seq, at_ms, entry in page:
                last = seq
                yield at_ms, entry
            if len(page) < PAGE:
                return

    async def forget(self, *, before_ms: int) -> None:
        """See `AuditLog.forget`."""
        await self._run(lambda db: db.execute("DELETE FROM audit_log WHERE at_ms < ?", (before_ms,)), write=True)


def _version(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT version FROM control").fetchone()
    return row[0] if row else 0


def _rows(limits: Mapping[str, Limit]) -> list[tuple[str, int]]:
    rows = []
    for name, limit in limits.items():
        rows.append((name, checked_amount(limit.limit)))
        rows += [(scoped_name(name, scope), checked_amount(amount)) for scope, amount in limit.scoped.items()]
    return rows


def _page(db: sqlite3.Connection, after: int, since_ms: int) -> list[tuple[int, int, bytes]]:
    found = db.execute("SELECT seq, at_ms, entry FROM audit_log WHERE seq > ? AND at_ms >= ? ORDER BY seq LIMIT ?", (after, since_ms, PAGE))
    return found.fetchall()
