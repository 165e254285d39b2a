"""What people change while the service runs, and the audit log, in Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from router.adapters.entries import checked_amount
from router.adapters.redis.keys import Keys, limit_field, write_limit
from router.adapters.redis.reads import Read, now_ms
from router.adapters.redis.scripts import script
from router.domain.controls import Limit
from router.domain.windows import escape_scope

PAGE: Final = 500


class RedisControls:
    """`router.ports.ControlStore` over the connection of a ledger. Time is the server's."""

    def __init__(self, read: Read, keys: Keys) -> None:
        """`read` sends one command and returns the answer; it raises `StoreUnavailable`."""
        self._read = read
        self._keys = keys

    async def look(self) -> tuple[int, int]:
        """See `Controls.look`."""
        version = await self._read("HGET", self._keys.controls, "v")
        return int(version or 0), await now_ms(self._read)

    async def load(self) -> bytes:
        """See `Controls.load`."""
        return bytes(await self._read("HGET", self._keys.controls, "s") or b"")

    async def commit(
        self, stored: bytes, *, expected: int, version: int, entries: Sequence[bytes] = (), limits: Mapping[str, Limit] | None = None
    ) -> bool:
        """See `Controls.commit`."""
        keys = self._keys
        told: list[str | int | bytes] = [expected, version, stored, len(entries), *entries]
        if limits is not None:
            told.append(version)
            for name, limit in limits.items():
                for amount in (limit.limit, *limit.scoped.values()):
                    checked_amount(amount)
                told += [limit_field(escape_scope(name)), write_limit(limit.limit, limit.scoped)]
        into = (keys.books, keys.limits_version, keys.controls, keys.audit_log)
        return bool(await self._read("EVAL", script("controls").text, len(into), *into, *told) == 1)

    async def append(self, entry: bytes) -> None:
        """See `AuditLog.append`."""
        await self._read("XADD", self._keys.audit_log, "*", "e", entry)

    async def history(self, *, since_ms: int = 0) -> AsyncIterator[tuple[int, bytes]]:
        """See `AuditLog.history`."""
        start = str(since_ms)
        while True:
            page = await self._read("XRANGE", self._keys.audit_log, start, "+", "COUNT", PAGE)
            for stream_id, fields in page:
                yield int(stream_id.split(b"-")[0]), bytes(fields[1])
            if len(page) < PAGE:
                return
            start = "(" + page[-1][0].decode()

    async def forget(self, *, before_ms: int) -> None:
        """See `AuditLog.forget`."""
        await self._read("XTRIM", self._keys.audit_log, "MINID", max(0, before_ms))
