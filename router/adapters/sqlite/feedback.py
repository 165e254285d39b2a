"""What clients say of answers, in a ledger file."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

import msgspec

from router.adapters.sqlite.side_tables import SideTables
from router.domain.feedback import Feedback
from router.ports import MOST_FEEDBACK

PAGE: Final = 500
TRIM_EVERY: Final = 1_000
"""Rows beyond the bound that are dropped at a time."""


class SqliteFeedback(SideTables):
    """`router.ports.FeedbackStore` in the file of a ledger."""

    tables = (
        "CREATE TABLE IF NOT EXISTS feedback (seq INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL, key_id TEXT NOT NULL,"
        " at_ms INTEGER NOT NULL, entry BLOB NOT NULL, UNIQUE (request_id, key_id))",
    )
    purpose = "feedback"

    async def put(self, given: Feedback) -> None:
        """See `FeedbackStore.put`."""
        row = (given.request_id, given.key_id, given.at_ms, msgspec.json.encode(given))

        def write(db: sqlite3.Connection) -> None:
            made = db.execute("INSERT OR REPLACE INTO feedback (request_id, key_id, at_ms, entry) VALUES (?, ?, ?, ?)", row).lastrowid or 0
            if made % TRIM_EVERY == 0:
                db.execute("DELETE FROM feedback WHERE seq <= ?", (made - MOST_FEEDBACK,))

        await self._run(write)

    async def all(self, *, since_ms: int = 0) -> AsyncIterator[Feedback]:
        """See `FeedbackStore.all`."""
        last = 0
        while True:
            page = await self._run(partial(_page, after=last, since_ms=since_ms), write=False)
            for seq, entry in page:
                last = seq
                yield msgspec.json.decode(entry, type=Feedback)
            if len(page) < PAGE:
                return

    async def newest(self) -> str:
        """See `FeedbackStore.newest`."""
        return str(await self._run(_last, write=False))

    async def news(self, after: str) -> tuple[list[Feedback], str]:
        """See `FeedbackStore.news`."""
        page = await self._run(partial(_page, after=int(after), since_ms=0), write=False)
        found = [msgspec.json.decode(entry, type=Feedback) for _, entry in page]
        return found, str(page[-1][0]) if page else after


def _last(db: sqlite3.Connection) -> int:
    (last,) = db.execute("SELECT COALESCE(MAX(seq), 0) FROM feedback").fetchone()
    return int(last)


def _page(db: sqlite3.Connection, after: int, since_ms: int) -> list[tuple[int, bytes]]:
    found = db.execute("SELECT seq, entry FROM feedback WHERE seq > ? AND at_ms >= ? ORDER BY seq LIMIT ?", (after, since_ms, PAGE))
    return found.fetchall()
