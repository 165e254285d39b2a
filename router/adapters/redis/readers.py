"""How far programs that keep records elsewhere have read the log in Redis."""

from __future__ import annotations

from collections.abc import Sequence

from router.adapters.redis.keys import Keys
from router.adapters.redis.reads import Read


class RedisReaders:
    """`router.ports.Readers` over the connection of a ledger."""

    def __init__(self, read: Read, keys: Keys) -> None:
        """`read` sends one command and returns the answer; it raises `StoreUnavailable`."""
        self._read = read
        self._keys = keys

    async def note(self, name: str, position: str) -> None:
        """See `Readers.note`."""
        await self._read("HSET", self._keys.readers, name, position)

    async def read_until(self, names: Sequence[str]) -> int:
        """See `Readers.read_until`. An entry's id begins with when it was written."""
        found = await self._read("HMGET", self._keys.readers, *names)
        return min(int((position or b"0").partition(b"-")[0]) for position in found)
