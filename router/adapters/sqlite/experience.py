"""What processes have learned, in a ledger file."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from router.adapters.sqlite.side_tables import SideTables


class SqliteExperience(SideTables):
    """`router.experience_port.ExperienceStore` in the file of a ledger. Time is the machine's."""

    tables = ("CREATE TABLE IF NOT EXISTS experience (name TEXT PRIMARY KEY, row BLOB NOT NULL) WITHOUT ROWID",)
    purpose = "what was learned"

    async def rows(self) -> tuple[int, Mapping[str, bytes]]:
        """See `ExperienceStore.rows`."""
        found = await self._run(lambda db: db.execute("SELECT name, row FROM experience").fetchall(), write=False)
        return self._clock_ms(), {name: bytes(row) for name, row in found}

    async def put(self, name: str, row: bytes, *, instead_of: Mapping[str, bytes]) -> bool:
        """See `ExperienceStore.put`."""

        def write(db: sqlite3.Connection) -> bool:
            for other in {name, *instead_of}:
                found = db.execute("SELECT row FROM experience WHERE name=?", (other,)).fetchone()
                if (bytes(found[0]) if found else None) != instead_of.get(other):
                    return False
            db.executemany("DELETE FROM experience WHERE name=?", [(other,) for other in instead_of])
            db.execute("INSERT INTO experience VALUES (?, ?)", (name, row))
            return True

        return await self._run(write)
