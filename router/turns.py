"""Turns: one thread reads for all, a little of each owner's texts at a time, so that nobody's long text makes others late."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import Executor
from functools import partial
from typing import Any, Final

Steps = Generator[None, None, Any]
"""Work that may be interrupted wherever it yields; what it returns was found."""

TURN_SECONDS: Final = 0.002
"""An owner's turn ends with the first step after so long."""
MOST_WAITING: Final = 32
"""Texts of one owner, the one that is read included."""


class Crowded(Exception):
    """Too many texts of this owner wait."""


class _Job:
    __slots__ = ("found", "steps")

    def __init__(self, steps: Steps, found: asyncio.Future[Any]) -> None:
        self.steps = steps
        self.found = found


class Turns:
    """Texts that wait to be read, of one event loop."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._waiting: dict[str, deque[_Job]] = {}
        """By owner, in the order of their turns; nobody without a text is there."""
        self._busy = False

    async def read(self, owner: str, steps: Steps) -> Any:
        """Do the steps in turn with those of other owners. Whoever cancels this has them dropped, from the next step on.

        Raises:
            Crowded: too many texts of the owner wait; nothing is read.
        """
        queue = self._waiting.setdefault(owner, deque())
        if len(queue) >= MOST_WAITING:
            raise Crowded(owner)
        job = _Job(steps, asyncio.get_running_loop().create_future())
        queue.append(job)
        if not self._busy:
            self._next()
        try:
            return await job.found
        except asyncio.CancelledError:
            # The first may be under way; `_next` drops it then.
            if job in queue and queue[0] is not job:
                queue.remove(job)
            raise

    def _next(self) -> None:
        """Give the first owner its turn, and a place behind the others."""
        self._busy = False
        while self._waiting:
            owner, queue = next(iter(self._waiting.items()))
            del self._waiting[owner]
            # Given up: what nobody waits for is not read.
            while queue and queue[0].found.done():
                queue.popleft()
            if queue:
                self._waiting[owner] = queue
                self._busy = True
                turn = asyncio.get_running_loop().run_in_executor(self._executor, _go_on, queue[0].steps)
                turn.add_done_callback(partial(self._took, queue))
                return

    def _took(self, queue: deque[_Job], turn: asyncio.Future[tuple[bool, Any]]) -> None:
        job = queue[0]
        if not job.found.done():
            if turn.cancelled():
                job.found.cancel()
            elif (problem := turn.exception()) is not None:
                job.found.set_exception(problem)
            elif turn.result()[0]:
                job.found.set_result(turn.result()[1])
        self._next()


def _go_on(steps: Steps) -> tuple[bool, Any]:
    """Do steps until the turn ends, in the thread: whether they are at their end, and what was found then."""
    ends = time.monotonic() + TURN_SECONDS
    try:
        while True:
            next(steps)
            if time.monotonic() >= ends:
                return False, None
    except StopIteration as end:
        return True, end.value
