"""Texts of configurations that were served, in Redis."""

from __future__ import annotations

from collections.abc import Sequence

from router.adapters.redis.keys import Keys
from router.adapters.redis.reads import Read


class RedisShelf:
    """`router.ports.Shelf` over the connection of a ledger."""

    def __init__(self, read: Read, keys: Keys) -> None:
        """`read` sends one command and returns the answer; it raises `StoreUnavailable`."""
        self._read = read
        self._keys = keys

    async def keep(self, name: str, label: bytes, text: bytes) -> None:
        """See `Shelf.keep`."""
        await self._read("HSET", self._keys.config_texts, name, text)
        await self._read("HSET", self._keys.config_labels, name, label)

    async def labels(self) -> Sequence[bytes]:
        """See `Shelf.labels`."""
        return [bytes(label) for label in await self._read("HVALS", self._keys.config_labels)]

    async def text(self, name: str) -> bytes | None:
        """See `Shelf.text`."""
        found = await self._read("HGET", self._keys.config_texts, name)
        return None if found is None else bytes(found)

    async def drop(self, name: str) -> None:
        """See `Shelf.drop`."""
        await self._read("HDEL", self._keys.config_labels, name)
        await self._read("HDEL", self._keys.config_texts, name)
