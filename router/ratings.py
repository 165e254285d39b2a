"""Ratings come to whichever process answers `POST /v1/feedback`; each process learns from those of the requests that it served."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from router.memory import Memory
from router.metrics import Metrics
from router.ports import FeedbackStore

RATINGS_SECONDS: Final = 1.0
"""How often new ratings are looked for, where one may count."""
IDLE_SECONDS: Final = 60.0
"""How often it is noted how far the ratings are, where none counts."""


class Ratings:
    """Reads what clients say of answers, and has what chose these learn from it."""

    def __init__(self, store: FeedbackStore, memory: Memory, metrics: Metrics, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives monotonic seconds."""
        self._store = store
        self._memory = memory
        self._metrics = metrics
        self._clock = clock
        self._after = ""
        self._noted_at = 0.0

    async def read(self) -> None:
        """Learn from what came since the last time; nothing is read where no rating can count.

        Raises:
            StoreUnavailable: the store does not answer; the next time goes on from here.
        """
        counts = self._memory.are_rated
        if self._after and not counts and self._clock() - self._noted_at < IDLE_SECONDS:
            return
        if not self._after or not counts:
            self._after = await self._store.newest()
            self._noted_at = self._clock()
            return
        while True:
            news, self._after = await self._store.news(self._after)
            if not news:
                return
            for given in news:
                if given.rating is not None:
                    self._memory.rated(given.request_id, given.key_id, given.rating, self._metrics)
