"""Texts of configurations that were served, in a ledger file."""

from __future__ import annotations

from collections.abc import Sequence

from router.adapters.sqlite.side_tables import SideTables


class SqliteShelf(SideTables):
    """`router.ports.Shelf` in the file of a ledger."""

    tables = ("CREATE TABLE IF NOT EXISTS config_text (name TEXT PRIMARY KEY, label BLOB NOT NULL, text BLOB NOT NULL) WITHOUT ROWID",)
    purpose = "configurations"

    async def keep(self, name: str, label: bytes, text: bytes) -> None:
        """See `Shelf.keep`."""
        await self._run(lambda db: db.execute("INSERT OR REPLACE INTO config_text VALUES (?, ?, ?)", (name, label, text)))

    async def labels(self) -> Sequence[bytes]:
        """See `Shelf.labels`."""
        rows = await self._run(lambda db: db.execute("SELECT label FROM config_text").fetchall(), write=False)
        return [bytes(label) for (label,) in rows]

    async def text(self, name: str) -> bytes | None:
        """See `Shelf.text`."""
        row = await self._run(lambda db: db.execute("SELECT text FROM config_text WHERE name=?", (name,)).fetchone(), write=False)
        return None if row is None else bytes(row[0])

    async def drop(self, name: str) -> None:
        """See `Shelf.drop`."""
        await self._run(lambda db: db.execute("DELETE FROM config_text WHERE name=?", (name,)))
