"""The one thread of a process that writes to a ledger file, with group commit."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import structlog

from router.adapters.sqlite.batch import Batch
from router.errors import StoreUnavailable

log = structlog.get_logger("faregate.ledger")

T = TypeVar("T")
Operation = tuple[Callable[..., Any], "asyncio.Future[Any]", str, tuple[Any, ...]]
"""(method of `Batch`, future, attempt id or an empty string, arguments)."""

MAX_BATCH = 256
"""Operations per transaction: bounds how long others wait for the file."""


class Writer:
    """Takes operations from an event loop, applies all that wait in one transaction, answers them together."""

    def __init__(self, connection: sqlite3.Connection, clock_ms: Callable[[], int]) -> None:
        self._db = connection
        self._clock_ms = clock_ms
        self._batch = Batch(connection)
        self._loop = asyncio.get_running_loop()
        self._tick: list[Operation] = []
        self._queue: queue.SimpleQueue[list[Operation] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    def submit(self, method: Callable[..., T], attempt_id: str, *args: Any) -> asyncio.Future[T]:
        """Queue one operation. All that are submitted in one turn of the event loop are handed over together.

        Raises:
            StoreUnavailable: the ledger is closed.
        """
        if self._closed:
            raise StoreUnavailable("the ledger file is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        if not self._tick:
            self._loop.call_soon(self._hand_over)
        self._tick.append((method, future, attempt_id, args))
        return future

    def _hand_over(self) -> None:
        tick, self._tick = self._tick, []
        if tick:
            self._queue.put(tick)

    async def close(self) -> None:
        """Finish what was submitted, then end the thread and close the file."""
        if not self._closed:
            self._closed = True
            self._hand_over()
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    # -- in the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        open_ = True
        while open_:
            operations = self._queue.get()
            if operations is None:
                break
            while len(operations) < MAX_BATCH:
                try:
                    more = self._queue.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    open_ = False
                    break
                operations += more
            answers = self._apply(operations)
            try:
                self._loop.call_soon_threadsafe(_answer, answers)
            except RuntimeError:
                # The loop has gone: nobody is left to be told.
                break
        self._db.close()

    def _apply(self, operations: list[Operation]) -> list[tuple[asyncio.Future[Any], Any]]:
        batch = self._batch
        try:
            self._db.execute("BEGIN IMMEDIATE")
            batch.begin(self._clock_ms(), [op[2] for op in operations if op[2]])
            answers = [
                (future, method(batch, attempt_id, *args) if attempt_id else method(batch, *args))
                for method, future, attempt_id, args in operations
            ]
            batch.write()
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo()
            failure = StoreUnavailable(f"the ledger file cannot be written: {error}")
            return [(op[1], failure) for op in operations]
        # The last line of defence: a bug in one operation must neither end the thread nor fail the others of its batch.
        except Exception as bug:
            self._undo()
            if len(operations) > 1:
                return [answer for each in operations for answer in self._apply([each])]
            log.exception("an operation of the ledger failed")
            return [(operations[0][1], StoreUnavailable(f"the ledger cannot do that: {bug!r}"))]
        batch.end()
        return answers

    def _undo(self) -> None:
        self._batch.forget()
        if self._db.in_transaction:
            try:
                self._db.execute("ROLLBACK")
            except sqlite3.Error:
                # Some errors (disk full, I/O) have rolled back already; the next BEGIN starts afresh.
                return


def _answer(answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, answer in answers:
        if future.done():
            continue
        if type(answer) is StoreUnavailable:
            future.set_exception(StoreUnavailable(*answer.args))
        else:
            future.set_result(answer)
