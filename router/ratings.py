"""Ratings teach whoever takes them, whichever process gave the answer: what an answer was chosen by is remembered in the store.

The store says of each rating what counted before it, so that it counts once, whoever learns it and however often it is sent. What is
learned goes to the others as everything else that is (`router/experience.py`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from router.domain.feedback import Feedback
from router.errors import StoreUnavailable
from router.memory import Memory
from router.metrics import Metrics
from router.ports import FeedbackStore

RATINGS_SECONDS: Final = 1.0
"""How often new answers are told of, and new ratings learned from."""
MOST_WAITING: Final = 10_000
MOST_AT_ONCE: Final = 500
TRIES: Final = 6
"""An answer may be told of after its rating has come: it is looked for so often again, after a second, and then twice as long each time."""


class _Waiting(msgspec.Struct, gc=False):
    given: Feedback
    tries: int
    due_at: float


class Ratings:
    """Keeps what clients say of answers, and has what chose these learn from it."""

    def __init__(self, store: FeedbackStore, memory: Memory, metrics: Metrics, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives monotonic seconds."""
        self._store = store
        self._memory = memory
        self._metrics = metrics
        self._clock = clock
        self._waiting: deque[_Waiting] = deque(maxlen=MOST_WAITING)

    async def put(self, given: Feedback) -> None:
        """Keep it, and learn from it the next time. Raises `StoreUnavailable`."""
        await self._store.put(given)
        if given.rating is not None:
            self._waiting.append(_Waiting(given, 0, self._clock()))

    async def look(self) -> None:
        """Tell the store of new answers, and learn from new ratings; without any the store is not asked.

        Raises:
            StoreUnavailable: the store does not answer; the next time goes on from here.
        """
        told = self._memory.untold()
        if told:
            try:
                await self._store.expect(told)
            except BaseException:
                self._memory.give_back(told)
                raise
        while due := [each for each in self._waiting if each.due_at <= self._clock()][:MOST_AT_ONCE]:
            await self._learn(due)

    async def _learn(self, due: list[_Waiting]) -> None:
        counted = await self._store.count([each.given for each in due])
        looked_at = {id(each) for each in due}
        self._waiting = deque([each for each in self._waiting if id(each) not in looked_at], MOST_WAITING)
        for each, taken in zip(due, counted, strict=True):
            if taken is not None and each.given.rating is not None:
                self._memory.rated(taken, each.given.rating, self._metrics)
            elif each.tries < TRIES:
                self._waiting.append(_Waiting(each.given, each.tries + 1, self._clock() + 2.0**each.tries))

    async def close(self) -> None:
        """Learn from what is waiting for the last time, if the store answers."""
        with suppress(StoreUnavailable):
            await self.look()
