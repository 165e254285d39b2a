"""What clients say of answers, in Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import msgspec

from router.adapters.redis.keys import Keys
from router.adapters.redis.reads import Read
from router.domain.feedback import Feedback
from router.ports import MOST_FEEDBACK

PAGE: Final = 500


class RedisFeedback:
    """`router.ports.FeedbackStore` over the connection of a ledger: a stream, whose readers take the last word of each key."""

    def __init__(self, read: Read, keys: Keys) -> None:
        """`read` sends one command and returns the answer; it raises `StoreUnavailable`."""
        self._read = read
        self._keys = keys

    async def put(self, given: Feedback) -> None:
        """See `FeedbackStore.put`."""
        await self._read("XADD", self._keys.feedback, "MAXLEN", "~", MOST_FEEDBACK, "*", "f", msgspec.json.encode(given))

    async def all(self, *, since_ms: int = 0) -> AsyncIterator[Feedback]:
        """See `FeedbackStore.all`."""
        start = "-"
        while True:
            page = await self._read("XRANGE", self._keys.feedback, start, "+", "COUNT", PAGE)
            for entry_id, fields in page:
                start = f"({entry_id.decode()}"
                given = msgspec.json.decode(fields[1], type=Feedback)
                if given.at_ms >= since_ms:
                    yield given
            if len(page) < PAGE:
                return

    async def newest(self) -> str:
        """See `FeedbackStore.newest`."""
        last = await self._read("XREVRANGE", self._keys.feedback, "+", "-", "COUNT", 1)
        return str(last[0][0].decode()) if last else "0-0"

    async def news(self, after: str) -> tuple[list[Feedback], str]:
        """See `FeedbackStore.news`."""
        page = await self._read("XRANGE", self._keys.feedback, f"({after}", "+", "COUNT", PAGE)
        found = [msgspec.json.decode(fields[1], type=Feedback) for _, fields in page]
        return found, page[-1][0].decode() if page else after
