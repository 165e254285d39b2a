"""Work in the background: repeated, never dying of one failure, ended with the service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import structlog

from router.errors import StoreUnavailable

log = structlog.get_logger("faregate.tasks")

INSIST_SECONDS: Final = 1.0
"""A task that still runs so long after it was cancelled is cancelled again."""


async def end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until none runs. What they raise is theirs.

    A cancellation can get lost: a library that takes it for the end of its own time limit swallows it. So it is repeated.
    """
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=INSIST_SECONDS)


class Background:
    """Repeats functions until it is closed."""

    def __init__(self, *, store_away: Callable[[str], None]) -> None:
        """`store_away` is told why, whenever work was in vain because the budget store does not answer."""
        self._store_away = store_away
        self._tasks: set[asyncio.Task[None]] = set()

    def every(self, seconds: float, work: Callable[[], Awaitable[None]], *, name: str, at_once: bool = False) -> None:
        """Call `work` again and again, `seconds` after its last end."""
        self._tasks.add(asyncio.create_task(self._repeat(seconds, work, name, at_once), name=name))

    async def close(self) -> None:
        """Stop, and wait until nothing runs any more."""
        await end(self._tasks)
        self._tasks.clear()

    async def _repeat(self, seconds: float, work: Callable[[], Awaitable[None]], name: str, at_once: bool) -> None:
        if not at_once:
            await asyncio.sleep(seconds)
        while True:
            try:
                await work()
            except StoreUnavailable as exc:
                self._store_away(str(exc))
            # A task that dies silently would stop heartbeats or sweeps: log it and go on.
            except Exception:
                log.exception("task failed", task=name)
            await asyncio.sleep(seconds)
