"""What processes have learned, in Redis."""

from __future__ import annotations

from collections.abc import Mapping

from router.adapters.redis.keys import Keys
from router.adapters.redis.reads import Read, now_ms
from router.adapters.redis.scripts import script


class RedisExperience:
    """`router.experience_port.ExperienceStore` over the connection of a ledger. Time is the server's."""

    def __init__(self, read: Read, keys: Keys) -> None:
        """`read` sends one command and returns the answer; it raises `StoreUnavailable`."""
        self._read = read
        self._keys = keys

    async def rows(self) -> tuple[int, Mapping[str, bytes]]:
        """See `ExperienceStore.rows`."""
        flat = await self._read("HGETALL", self._keys.experience)
        return await now_ms(self._read), {bytes(name).decode(): bytes(row) for name, row in zip(flat[::2], flat[1::2], strict=True)}

    async def put(self, name: str, row: bytes, *, instead_of: Mapping[str, bytes]) -> bool:
        """See `ExperienceStore.put`."""
        others = [part for other, was in instead_of.items() if other != name for part in (other, was)]
        text = script("experience").text
        return bool(await self._read("EVAL", text, 1, self._keys.experience, name, row, instead_of.get(name, b""), *others) == 1)
