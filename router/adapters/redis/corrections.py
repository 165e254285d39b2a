"""Changes of old charges in Redis."""

from __future__ import annotations

from collections.abc import Sequence

from router.adapters.entries import SEPARATOR, checked_attempt
from router.adapters.redis.keys import Keys
from router.adapters.redis.reads import Read
from router.adapters.redis.scripts import script
from router.domain.windows import unit_of
from router.ports import Correction


class RedisCorrections:
    """`router.ports.Corrections` over the connection of a ledger."""

    def __init__(self, read: Read, keys: Keys) -> None:
        """`read` sends one command and returns the answer; it raises `StoreUnavailable`."""
        self._read = read
        self._keys = keys

    async def turn(self) -> int:
        """See `Corrections.turn`."""
        return int(await self._read("GET", self._keys.corrections) or 0)

    async def book(self, corrections: Sequence[Correction], *, turn: int, entry: bytes) -> bool:
        """See `Corrections.book`."""
        keys = self._keys
        told: list[str | int | bytes] = []
        for each in corrections:
            names = SEPARATOR.join(name for name in each.buckets if unit_of(name) == "usd")
            told += [keys.attempts + checked_attempt(each.attempt_id), str(each.by_nusd), each.at_ms, names, each.record]
        into = (keys.books, keys.log, keys.corrections, keys.audit_log)
        return bool(await self._read("EVAL", script("correct").text, len(into), *into, turn, entry, *told) == 1)
