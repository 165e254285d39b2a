"""What clients say of answers, in a ledger file."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Final

import msgspec

from router.adapters.sqlite.side_tables import SideTables
from router.domain.feedback import Answered, Feedback, Taken, read_lessons
from router.ports import MOST_ANSWERS, MOST_FEEDBACK

PAGE: Final = 500
TRIM_EVERY: Final = 1_000
"""Rows beyond the bound that are dropped at a time."""


class SqliteFeedback(SideTables):
    """`router.ports.FeedbackStore` in the file of a ledger."""

    tables = (
        "CREATE TABLE IF NOT EXISTS feedback (seq INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL, key_id TEXT NOT NULL,"
        " at_ms INTEGER NOT NULL, entry BLOB NOT NULL, UNIQUE (request_id, key_id))",
        "CREATE TABLE IF NOT EXISTS answer (seq INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL UNIQUE, key_id TEXT NOT NULL,"
        " lessons BLOB NOT NULL, rating REAL, at_ms INTEGER NOT NULL)",
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

    async def expect(self, answers: Sequence[Answered]) -> None:
        """See `FeedbackStore.expect`."""
        rows = [(one.request_id, one.key_id, msgspec.json.encode(one.lessons)) for one in answers]

        def write(db: sqlite3.Connection) -> None:
            db.executemany("INSERT OR IGNORE INTO answer (request_id, key_id, lessons, at_ms) VALUES (?, ?, ?, 0)", rows)
            (last,) = db.execute("SELECT COALESCE(MAX(seq), 0) FROM answer").fetchone()
            db.execute("DELETE FROM answer WHERE seq <= ?", (last - MOST_ANSWERS,))

        await self._run(write)

    async def count(self, given: Sequence[Feedback]) -> list[Taken | None]:
        """See `FeedbackStore.count`."""
        return await self._run(lambda db: [_count(db, one) for one in given])


def _count(db: sqlite3.Connection, given: Feedback) -> Taken | None:
    row = db.execute("SELECT key_id, lessons, rating, at_ms FROM answer WHERE request_id=?", (given.request_id,)).fetchone()
    if row is None:
        return None
    key_id, lessons, before, at_ms = row
    if key_id != given.key_id or given.at_ms < at_ms or before == given.rating:
        return Taken()
    db.execute("UPDATE answer SET rating=?, at_ms=? WHERE request_id=?", (given.rating, given.at_ms, given.request_id))
    return Taken(read_lessons(lessons), before)


def _page(db: sqlite3.Connection, after: int, since_ms: int) -> list[tuple[int, bytes]]:
    found = db.execute("SELECT seq, entry FROM feedback WHERE seq > ? AND at_ms >= ? ORDER BY seq LIMIT ?", (after, since_ms, PAGE))
    return found.fetchall()
