"""What alerts keep in Redis: what was told, who looks, and the log from where one left off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from router.adapters.entries import CLOSED, present
from router.adapters.redis.keys import Keys
from router.adapters.redis.reads import Read, entries_after, now_ms
from router.adapters.redis.scripts import script
from router.alerts.ports import Mark

PAGE: Final = 500
CLEARED_AT_ONCE: Final = 500


class RedisMarkers:
    """`router.alerts.ports.AlertStore` over the connection of a ledger. Time is the server's."""

    def __init__(self, read: Read, keys: Keys) -> None:
        """`read` sends one command and returns the answer; it raises `StoreUnavailable`."""
        self._read = read
        self._keys = keys

    async def lead(self, owner: str, *, lease_ms: int) -> int | None:
        """See `Markers.lead`."""
        leader = self._keys.alerts_leader
        if not lease_ms:
            if await self._read("GET", leader) == owner.encode():
                await self._read("DEL", leader)
            return None
        if await self._read("SET", leader, owner, "NX", "PX", lease_ms) is None:
            if await self._read("GET", leader) != owner.encode():
                return None
            # Should it run out here, another one may lead as well for a moment: marks are atomic all the same.
            if not await self._read("PEXPIRE", leader, lease_ms):
                return None
        return await now_ms(self._read)

    async def mark(self, name: str, *, keep_ms: int, event: bytes) -> bool:
        """See `Markers.mark`."""
        keys = self._keys
        answer = await self._read("EVAL", script("mark").text, 2, keys.alerts_marks, keys.alerts_pending, name, keep_ms, event)
        return bool(answer == 1)

    async def done(self, name: str) -> None:
        """See `Markers.done`."""
        await self._read("HDEL", self._keys.alerts_pending, name)

    async def clear(self, names: Sequence[str]) -> None:
        """See `Markers.clear`."""
        for at in range(0, len(names), CLEARED_AT_ONCE):
            await self._read("HDEL", self._keys.alerts_marks, *names[at : at + CLEARED_AT_ONCE])

    async def marks(self) -> Mapping[str, Mark]:
        """See `Markers.marks`. Those that are over are dropped."""
        now = await now_ms(self._read)
        pending = _pairs(await self._read("HGETALL", self._keys.alerts_pending))
        noted = {name: int(until) for name, until in _pairs(await self._read("HGETALL", self._keys.alerts_marks)).items()}
        await self.clear([name for name, until_ms in noted.items() if until_ms <= now])
        in_force = {name: Mark(until_ms, pending.get(name)) for name, until_ms in noted.items() if until_ms > now}
        # What was not delivered is not lost with its mark.
        return in_force | {name: Mark(now, event) for name, event in pending.items() if name not in in_force}

    async def page(self, cursor: str, *, since_ms: int) -> tuple[str, Sequence[bytes]]:
        """See `Logbook.page`."""
        start = f"({cursor}" if cursor else str(since_ms)
        found = await entries_after(self._read, self._keys, start, PAGE)
        return (found[-1][0] if found else cursor), [present(entry) for _, entry in found if entry.outcome != CLOSED]

    async def load(self) -> bytes:
        """See `Logbook.load`."""
        return bytes(await self._read("GET", self._keys.alerts_state) or b"")

    async def save(self, state: bytes) -> None:
        """See `Logbook.save`."""
        await self._read("SET", self._keys.alerts_state, state)


def _pairs(flat: Sequence[bytes]) -> dict[str, bytes]:
    return {name.decode(): value for name, value in zip(flat[::2], flat[1::2], strict=True)}
