"""What clients say of answers, in Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec

from router.adapters.redis.keys import Keys
from router.adapters.redis.reads import Read
from router.adapters.redis.scripts import script
from router.domain.feedback import Answered, Feedback, Taken, read_lessons
from router.ports import MOST_ANSWERS, MOST_FEEDBACK

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

    async def expect(self, answers: Sequence[Answered]) -> None:
        """See `FeedbackStore.expect`."""
        text, keys = script("expect").text, self._keys.answers
        most = MOST_ANSWERS // (len(keys) - 1)
        for at in range(0, len(answers), PAGE):
            rows = [
                part
                for one in answers[at : at + PAGE]
                for part in (one.request_id, b"%s\n\n0\n%s" % (one.key_id.encode(), msgspec.json.encode(one.lessons)))
            ]
            await self._read("EVAL", text, len(keys), *keys, most, *rows)

    async def count(self, given: Sequence[Feedback]) -> list[Taken | None]:
        """See `FeedbackStore.count`."""
        text, keys = script("count").text, self._keys.answers
        parts = [part for one in given for part in (one.request_id, one.key_id, repr(one.rating), one.at_ms)]
        return [_taken(row) for row in await self._read("EVAL", text, len(keys), *keys, *parts)]


def _taken(row: bytes) -> Taken | None:
    if not row:
        return None
    before, _, lessons = row.partition(b"\n")
    return Taken(read_lessons(lessons), float(before) if before else None) if lessons else Taken()
