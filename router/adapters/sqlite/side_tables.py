"""Tables beside the budgets in a ledger file, used now and then: a connection and a transaction for each call, in a thread."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TypeVar

from router.adapters.entries import machine_clock_ms
from router.adapters.sqlite import schema
from router.errors import StoreUnavailable

T = TypeVar("T")


class SideTables:
    """Tables that are made when they are first used. Time is the machine's."""

    tables: Sequence[str] = ()
    """Statements that make them."""
    purpose = ""
    """What they are for, as an error says it."""

    def __init__(self, path: str, *, clock_ms: Callable[[], int] = machine_clock_ms, timeout_seconds: float = 2.0) -> None:
        """`timeout_seconds`: longest wait for another process that writes. The ledger must have made the file."""
        self._path = path
        self._clock_ms = clock_ms
        self._timeout_seconds = timeout_seconds
        self._made = False

    async def _run(self, work: Callable[[sqlite3.Connection], T], *, write: bool = True) -> T:
        """Do work in one transaction. Raises `StoreUnavailable`."""

        def run() -> T:
            with closing(schema.connect(self._path, timeout_seconds=self._timeout_seconds)) as db:
                if not self._made:
                    for table in self.tables:
                        db.execute(table)
                    self._made = True
                db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                answer = work(db)
                db.execute("COMMIT")
                return answer

        try:
            return await asyncio.to_thread(run)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the ledger file cannot be used for {self.purpose}: {error}") from error
